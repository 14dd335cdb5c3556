"""Byte ranges of objects in a bucket, or in any file system of pyarrow or fsspec."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock

import pyarrow as pa
import pyarrow.fs as pafs

from superbatch.formats.keys import checked_key
from superbatch.reading.per_process import PerProcess
from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import Answer

_MAX_OPEN_OBJECTS = 256


class ObjectStore:
    """Reads objects below a prefix through `pyarrow.fs`.

    Opening an object asks the store for its size, so objects stay open: the newest 256 of each process. One that
    could not be read is opened anew.

    Args:
        prefix: URL such as `s3://bucket/prefix?region=eu-central-1`, whose options pyarrow.fs reads; with `filesystem`,
            the path of the folder in it.
        filesystem: where the prefix lies; None for the store that the URL names.
    """

    is_remote = True

    def __init__(self, prefix: str, *, filesystem: pafs.FileSystem | None = None) -> None:
        self._prefix = prefix
        self._objects = PerProcess(partial(_OpenObjects, prefix, filesystem))

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        """Return the bytes of each range of the object `key`.

        Raises:
            InvalidInput: a key that could leave its root.
            OSError: the object cannot be read or is shorter than a range.
        """
        with self._opened(key) as (file, size_bytes):
            parts = [file.read_at(wanted.length, wanted.offset) for wanted in ranges]
            for part, wanted in zip(parts, ranges, strict=True):
                if len(part) != wanted.length:
                    raise OSError(f"{self._shown(key)} ends before byte {wanted.offset + wanted.length}")
        return Answer(parts, size_bytes, str(size_bytes))

    def read_tail(self, key: str, num_bytes: int) -> Answer:
        """Return the last `num_bytes` of the object `key`, or all of a shorter one.

        Raises: InvalidInput, OSError.
        """
        with self._opened(key) as (file, size_bytes):
            start = max(0, size_bytes - num_bytes)
            part = file.read_at(size_bytes - start, start)
            if len(part) != size_bytes - start:
                raise OSError(f"{self._shown(key)} ends before byte {size_bytes}")
        return Answer([part], size_bytes, str(size_bytes))

    def close(self) -> None:
        """Close the objects that this process has open."""
        if objects := self._objects.take():
            objects.close()

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[pa.NativeFile, int]]:
        checked_key(key, where=self._shown(""))
        objects = None
        try:
            objects = self._objects.get()
            yield objects.open(key)
        except (OSError, pa.ArrowException) as error:
            if objects:
                objects.forget(key)
            raise OSError(f"{self._shown(key)}: {error}") from error

    def _shown(self, key: str) -> str:
        """Return the address without its options, which may hold secrets."""
        return f"{self._prefix.partition('?')[0].rpartition('@')[2]}/{key}"


class _OpenObjects:
    """The objects that a process has open, the one used last at the end."""

    def __init__(self, prefix: str, filesystem: pafs.FileSystem | None) -> None:
        if filesystem is None:
            filesystem, prefix = pafs.FileSystem.from_uri(prefix)
        self._filesystem, self._folder = filesystem, prefix.rstrip("/")
        self._lock = Lock()
        self._files: OrderedDict[str, tuple[pa.NativeFile, int]] = OrderedDict()

    def open(self, key: str) -> tuple[pa.NativeFile, int]:
        """Return an object and its size in bytes."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        file = self._filesystem.open_input_file(f"{self._folder}/{key}" if self._folder else key)
        opened = (file, int(file.size()))
        with self._lock:
            self._files[key] = opened
            while len(self._files) > _MAX_OPEN_OBJECTS:
                self._files.popitem(last=False)  # closed when its last reader lets go of it
        return opened

    def forget(self, key: str) -> None:
        """Open the object anew when it is next wanted."""
        with self._lock:
            self._files.pop(key, None)

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            while self._files:
                self._files.popitem()[1][0].close()
