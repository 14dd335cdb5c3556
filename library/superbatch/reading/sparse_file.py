"""A file of which only some blocks are there."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from superbatch.reading.ranges import ByteRange

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class SparseFile(io.RawIOBase):
    """A read-only file that holds the blocks it was given and fetches any other part when it is read.

    Args:
        size_bytes: size of the file.
        blocks: offset and bytes of what is there; blocks do not overlap.
        fetch: returns the bytes of another range of the file.
    """

    def __init__(
        self, size_bytes: int, blocks: Sequence[tuple[int, bytes]], *, fetch: Callable[[ByteRange], bytes]
    ) -> None:
        super().__init__()
        self._size_bytes = size_bytes
        self._blocks = sorted(blocks)
        self._fetch = fetch
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer only at the end of the file."""
        left = max(0, self._size_bytes - self._position)
        wanted = ByteRange(self._position, left if size < 0 else min(size, left))
        self._position += wanted.length
        return self._held(wanted) if wanted.length else b""

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer with the next bytes, which is how a BufferedReader reads; return their number."""
        view = memoryview(buffer).cast("B")
        found = self.read(len(view))
        view[: len(found)] = found
        return len(found)

    def _held(self, wanted: ByteRange) -> bytes:
        index = bisect_right(self._blocks, wanted.offset, key=lambda block: block[0]) - 1
        if index >= 0:
            offset, block = self._blocks[index]
            start = wanted.offset - offset
            if start + wanted.length <= len(block):
                return block[start : start + wanted.length]
        return self._fetch(wanted)
