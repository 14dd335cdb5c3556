"""The family of errors: one tree, stable codes, and nothing lost on the way out of a worker process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from superbatch.formats import errors
from superbatch.formats.errors import (
    BehindRetention,
    LogEnded,
    RevokedBatch,
    ServiceError,
    SuperbatchError,
    UnreadableExample,
)


def own_classes() -> Iterator[type[SuperbatchError]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, SuperbatchError):
            yield value


@pytest.mark.parametrize("kind", list(own_classes()), ids=lambda kind: kind.__name__)
def test_each_class_stands_in_the_drawn_tree_and_says_when_it_happens(kind: type[SuperbatchError]) -> None:
    assert errors.__doc__ is not None
    line = next(
        line
        for line in errors.__doc__.splitlines()
        if line.rpartition(" ")[2] == kind.__name__ or f" {kind.__name__} (" in line or line == kind.__name__
    )
    parent = kind.__mro__[1]
    depth = (len(line) - len(line.lstrip("│ ├└─"))) // 4
    assert depth == len([base for base in kind.__mro__ if issubclass(base, SuperbatchError)]) - 1, parent
    assert kind.__doc__


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in own_classes()]
    assert len(set(codes)) == len(codes)
    assert all(code == code.lower() and " " not in code for code in codes)


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(422, "invalid_input", "b must be divisible"),
        BehindRetention(3, 10),
        BehindRetention(3, None),
        LogEnded("failed", 7),
        RevokedBatch(5, "excluded"),
        UnreadableExample("gone"),
    ],
)
def test_errors_survive_pickling(error: SuperbatchError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_messages_carry_their_numbers() -> None:
    assert (
        str(ServiceError(409, "second_learner", "one is live"))
        == "the service answered 409 (second_learner): one is live"
    )
    assert "seq 3" in str(BehindRetention(3, 10))
    assert "10" in str(BehindRetention(3, 10))
    assert "failed after 7" in str(LogEnded("failed", 7))
