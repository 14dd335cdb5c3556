"""Byte ranges of objects in named roots: joining near ones into few reads, and reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from superbatch.formats.errors import InvalidInput
from superbatch.formats.keys import checked_key

COALESCE_GAP_BYTES = 512 << 10
MAX_RUN_BYTES = 64 << 20


class ByteRange(NamedTuple):
    """Bytes [offset, offset + length) of an object."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Run:
    """One read that covers several ranges; `positions` are theirs in the list they came from."""

    range: ByteRange
    positions: tuple[int, ...]


class RangeSource(Protocol):
    """Reads byte ranges of an object.

    The law: the answer has exactly the bytes of each range, in the order of the ranges; whatever prevents that is an
    OSError (also: an object that is shorter than a range), which the caller may try again.
    """

    def read_ranges(self, root: str, key: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range of the object `key` in `root`."""
        ...


def coalesce(
    ranges: Sequence[ByteRange], *, gap_bytes: int = COALESCE_GAP_BYTES, max_run_bytes: int = MAX_RUN_BYTES
) -> list[Run]:
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
    for position in sorted(range(len(ranges)), key=lambda position: ranges[position]):
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


def parts_of(runs: Sequence[Run], *, max_bytes: int = MAX_RUN_BYTES) -> Iterator[Sequence[Run]]:
    """Yield the runs in order, cut into parts of at most `max_bytes` together; one longer run is a part of its own.

    A part is what is asked for, and held in memory, at once.
    """
    start = total_bytes = 0
    for position, run in enumerate(runs):
        if position > start and total_bytes + run.range.length > max_bytes:
            yield runs[start:position]
            start, total_bytes = position, 0
        total_bytes += run.range.length
    if runs:
        yield runs[start:]


class LocalRanges:
    """Reads byte ranges of files below local roots; holds no open file, so it may cross a fork.

    Args:
        roots: local path per name of a root.
    """

    def __init__(self, roots: Mapping[str, str | os.PathLike[str]]) -> None:
        self._roots = {name: Path(path) for name, path in roots.items()}

    def read_ranges(self, root: str, key: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range of the file `key` below `root`.

        Raises:
            InvalidInput: a root without a path, or a key that could leave its root.
            OSError: the file cannot be read or is shorter than a range.
        """
        if root not in self._roots:
            raise InvalidInput(
                f"every root of the shard table needs a local path; got none for {root!r}, only {sorted(self._roots)}. "
                "Add it to the roots of the reader."
            )
        path = self._roots[root] / checked_key(key, where=f"root {root}")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            return [_pread(descriptor, wanted, path) for wanted in ranges]
        finally:
            os.close(descriptor)


def _pread(descriptor: int, wanted: ByteRange, path: Path) -> bytes:
    parts = []
    offset, left = wanted
    while left:
        part = os.pread(descriptor, left, offset)
        if not part:
            raise OSError(f"{path} ends before byte {offset + left}")
        parts.append(part)
        offset, left = offset + len(part), left - len(part)
    return b"".join(parts)
