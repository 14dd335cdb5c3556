"""Byte ranges of an object, and joining near ones into few reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from superbatch.formats.errors import InvalidInput

MAX_RUN_BYTES = 64 << 20

_T = TypeVar("_T")


class ByteRange(NamedTuple):
    """Bytes [offset, offset + length) of an object."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Run:
    """One read that covers several ranges; `positions` are theirs in the list they came from."""

    range: ByteRange
    positions: tuple[int, ...]


def coalesce(ranges: Sequence[ByteRange], *, gap_bytes: int, max_run_bytes: int = MAX_RUN_BYTES) -> list[Run]:
    """Return reads that cover all ranges, joining those at most `gap_bytes` apart.

    [0, 10) and [15, 20) with a gap of 5 become one read [0, 20); with a gap of 4 they stay two.

    Args:
        ranges: in any order; may overlap or be equal.
        gap_bytes: largest stretch of unwanted bytes between two ranges of one read.
        max_run_bytes: a read grows no longer than this by joining; a single range may be longer.
    Returns:
        Reads in order of their offsets; every position of `ranges` is in exactly one.
    Raises:
        InvalidInput: a negative offset or length.
    """
    runs: list[Run] = []
    start = stop = 0
    members: list[int] = []
    for position in sorted(range(len(ranges)), key=ranges.__getitem__):
        offset, length = ranges[position]
        if offset < 0 or length < 0:
            raise InvalidInput(f"a byte range must not be negative; got offset {offset}, length {length}.")
        if members and (offset - stop > gap_bytes or max(stop, offset + length) - start > max_run_bytes):
            runs.append(Run(ByteRange(start, stop - start), tuple(members)))
            members = []
        if not members:
            start = stop = offset
        members.append(position)
        stop = max(stop, offset + length)
    if members:
        runs.append(Run(ByteRange(start, stop - start), tuple(members)))
    return runs


def parts_of(
    items: Sequence[_T], num_bytes_of: Callable[[_T], int], *, max_bytes: int = MAX_RUN_BYTES
) -> Iterator[Sequence[_T]]:
    """Yield the items in order, cut into parts of at most `max_bytes` together; one larger item is a part of its own.

    A part is what is asked for, and held in memory, at once.
    """
    start = total_bytes = 0
    for position, item in enumerate(items):
        num_bytes = num_bytes_of(item)
        if position > start and total_bytes + num_bytes > max_bytes:
            yield items[start:position]
            start, total_bytes = position, 0
        total_bytes += num_bytes
    if items:
        yield items[start:]
