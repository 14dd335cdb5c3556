"""Byte ranges of local files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from superbatch.formats.keys import checked_key
from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import Answer


class LocalFiles:
    """Reads files below a folder; holds no open file, so it may cross a fork.

    Args:
        folder: local path of the root.
    """

    is_remote = False

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        """Return the bytes of each range of the file `key`.

        Raises:
            InvalidInput: a key that could leave its root.
            OSError: the file cannot be read or is shorter than a range.
        """
        with self._opened(key) as (descriptor, size_bytes, version):
            parts = [_read_at(descriptor, wanted, path=self._folder / key) for wanted in ranges]
        return Answer(parts, size_bytes, version)

    def read_tail(self, key: str, num_bytes: int) -> Answer:
        """Return the last `num_bytes` of the file `key`, or all of a shorter one.

        Raises: InvalidInput, OSError.
        """
        with self._opened(key) as (descriptor, size_bytes, version):
            start = max(0, size_bytes - num_bytes)
            part = _read_at(descriptor, ByteRange(start, size_bytes - start), path=self._folder / key)
        return Answer([part], size_bytes, version)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int, str]]:
        path = self._folder / checked_key(key, where=f"folder {self._folder}")
        # Opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{path} is not a regular file")
            yield descriptor, status.st_size, f"{status.st_size}:{status.st_mtime_ns}"
        finally:
            os.close(descriptor)


def _read_at(descriptor: int, wanted: ByteRange, *, path: Path) -> bytes:
    parts = []
    offset, left = wanted
    while left:
        part = os.pread(descriptor, left, offset)
        if not part:
            raise OSError(f"{path} ends before byte {offset + left}")
        parts.append(part)
        offset, left = offset + len(part), left - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
