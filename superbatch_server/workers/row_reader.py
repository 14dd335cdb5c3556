"""The stored bytes of single rows, read by byte range and proven by their uid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from superbatch.formats.errors import ShardChanged
from superbatch.formats.uid import uid_of_bytes
from superbatch_server.storage.roots import Root, find_root


class RowRef(NamedTuple):
    """Where both towers of one row lie, and the identity that they must have."""

    root: str
    key: str
    a_offset: int
    a_length: int
    b_offset: int
    b_length: int
    uid: bytes


def read_rows(roots: Mapping[str, Root], rows: Sequence[RowRef]) -> list[tuple[bytes, bytes]]:
    """Return (a, b) of each row.

    Rows are read in the order in which they lie in their shards, so that a buffered reader of an object store serves
    neighbours from one request.

    Raises: ShardChanged when the bytes are not those of the row; ObjectMissing, UnknownRoot, Unavailable.
    """
    found: dict[int, tuple[bytes, bytes]] = {}
    for group in _by_shard(rows):
        first = rows[group[0]]
        with find_root(roots, first.root).open(first.key) as file:
            for position in group:
                found[position] = _read_row(file, rows[position])
    return [found[position] for position in range(len(rows))]


def _by_shard(rows: Sequence[RowRef]) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda position: rows[position][:3])
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or rows[order[stop]][:2] != rows[order[start]][:2]:
            yield order[start:stop]
            start = stop


def _read_row(file: BinaryIO, row: RowRef) -> tuple[bytes, bytes]:
    a, b = _read(file, row.a_offset, row.a_length), _read(file, row.b_offset, row.b_length)
    if uid_of_bytes(a, b) != row.uid:
        raise ShardChanged(
            f"a row must have the content it was indexed with; got other bytes at {row.a_offset} and {row.b_offset} "
            f"(root {row.root}, key {row.key!r}). Put the old shard back, or register the new one as a new data set."
        )
    return a, b


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
