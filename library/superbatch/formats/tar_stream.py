"""A forward-only view of a file that knows its position and says where the file was cut off."""

from __future__ import annotations

import io
from typing import BinaryIO

from superbatch.formats.errors import CorruptFile

READ_BYTES = 1 << 20


class TarStream:
    """A stream that knows its position, reads whole stretches or says where the file was cut off."""

    def __init__(self, stream: BinaryIO, *, where: str) -> None:
        self.where = where
        self.position = 0
        self._stream = stream
        self._start = 0
        self._size: int | None = None
        if stream.seekable():
            self._start = stream.tell()
            self._size = stream.seek(0, io.SEEK_END) - self._start
            stream.seek(self._start)

    def read_some(self, length: int) -> bytes:
        """Return the next `length` bytes, fewer only at the end of the stream."""
        parts = []
        while length and (part := self._stream.read(min(length, READ_BYTES))):
            parts.append(part)
            length -= len(part)
            self.position += len(part)
        return b"".join(parts)

    def read(self, length: int, *, what: str) -> bytes:
        """Return the next `length` bytes or raise CorruptFile; `what` names them."""
        start = self.position
        found = self.read_some(length)
        if len(found) < length:
            raise self.cut_off(what, start=start, stop=start + length)
        return found

    def skip_to(self, stop: int, *, what: str) -> None:
        """Step forward to byte `stop` of the stream or raise CorruptFile; `what` names what lies before it."""
        start = self.position
        if self._size is not None:
            if stop > self._size:
                self.position = self._size
                raise self.cut_off(what, start=start, stop=stop)
            self._stream.seek(self._start + stop)
            self.position = stop
        while self.position < stop:
            if not self.read_some(min(READ_BYTES, stop - self.position)):
                raise self.cut_off(what, start=start, stop=stop)

    def cut_off(self, what: str, *, start: int, stop: int) -> CorruptFile:
        """Return the error for a file that ends inside [start, stop)."""
        return CorruptFile(
            f"a tar must be whole; {what} takes bytes {start} to {stop} but the file ends at {self.position} "
            f"({self.where}). Copy or write the shard again."
        )
