"""Brace ranges in shard keys: `pool-{000000..000011}.tar` stands for twelve shards."""

from __future__ import annotations

import re

from superbatch_server.schemas.errors import InvalidRequest

MAX_SHARDS = 100_000
MAX_RANGES = 4
_RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")


def expand_braces(pattern: str) -> list[str]:
    """Return the keys that a pattern stands for, in order; several ranges expand with the last running fastest.

    A range keeps the width of its first number where that is padded with zeros.

    Raises:
        InvalidRequest: a range that runs backwards, more than MAX_SHARDS keys or MAX_RANGES ranges, or a brace that is
            no range.
    """
    keys = [""]
    position = 0
    ranges = list(_RANGE.finditer(pattern))
    if len(ranges) > MAX_RANGES:
        raise InvalidRequest(
            f"a key may have {MAX_RANGES} brace ranges; got {len(ranges)} (shards, key {pattern[:80]!r}). "
            "Name the shards with fewer of them."
        )
    for found in ranges:
        first, last = found.groups()
        count = int(last) - int(first) + 1
        if count < 1 or count * len(keys) > MAX_SHARDS:
            raise InvalidRequest(
                f"a brace range must run upwards and give at most {MAX_SHARDS:,} shards; got {found.group()!r} "
                f"(shards, key {pattern!r}). Write the first number first, or split the data set."
            )
        literal = pattern[position : found.start()]
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        keys = [key + literal + number for key in keys for number in numbers]
        position = found.end()
    rest = pattern[position:]
    if set("{}") & set(keys[0] + rest):
        raise InvalidRequest(
            f"braces in a key must be a range of numbers; got {pattern!r} (shards). Write {{000000..000011}}."
        )
    return [key + rest for key in keys]
