"""Brace ranges in shard keys."""

from __future__ import annotations

import pytest

from superbatch_server.schemas.braces import expand_braces
from superbatch_server.schemas.errors import InvalidRequest


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("a.tar", ["a.tar"]),
        ("p-{08..10}.tar", ["p-08.tar", "p-09.tar", "p-10.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{0..0}", ["0"]),
        ("{0..1}/x-{1..2}.tar", ["0/x-1.tar", "0/x-2.tar", "1/x-1.tar", "1/x-2.tar"]),
    ],
)
def test_a_pattern_stands_for_its_keys_in_order(pattern: str, keys: list[str]) -> None:
    assert expand_braces(pattern) == keys


@pytest.mark.parametrize(
    "pattern",
    [
        "{3..1}",
        "{0..100000}",
        "{0..999}{0..999}",
        "{0..999999999999}",
        "{a,b}",
        "x{",
        "{1..}",
        "{0..99}" + "{0..0}" * 4,
    ],
)
def test_what_is_no_range_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="brace"):
        expand_braces(pattern)
