"""What roots and stores share of an object store: its errors, and a file that can be read anywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from superbatch.formats.errors import InvalidInput
from superbatch_server.schemas.errors import ObjectMissing, Unavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore.store import ObjectStore

READ_AHEAD_BYTES = 1 << 20


def open_remote(url: str, *, where: str) -> ObjectStore:
    """Return the object store of an s3, gs, az or memory URL; credentials come from the machine's own configuration."""
    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        raise InvalidInput(
            f"an object store needs a URL and credentials that its client accepts; got {url!r} ({where}): "
            f"{_first_line(error)}. Set the variables that the provider's own tools use."
        ) from error


@contextmanager
def translated(key: str, *, where: str) -> Iterator[None]:
    """Raise ObjectMissing or Unavailable in place of the client's own errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(key, where=where) from error
    except (BaseError, OSError) as error:
        raise Unavailable(
            f"a store must answer; got {_first_line(error)} ({where}, key {key!r}). "
            "Check the network and the credentials."
        ) from error


def missing(key: str, *, where: str) -> ObjectMissing:
    """Return the error that says that there is no such object."""
    return ObjectMissing(
        f"an object must exist under its key; got none for {key!r} ({where}). Check the name, or upload it."
    )


class RemoteFile(io.RawIOBase):
    """A seekable file over ranged reads of one object; wrap it in a BufferedReader."""

    def __init__(self, store: ObjectStore, key: str, *, where: str) -> None:
        super().__init__()
        self._store, self._key, self._where = store, key, where
        with translated(key, where=where):
            self._size = int(obstore.head(store, key)["size"])
        self._position = 0

    def readable(self) -> bool:
        """Reading is all that it can do."""
        return True

    def seekable(self) -> bool:
        """Any position may be read."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fetch the next bytes with one ranged read."""
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self._size)
        if stop <= self._position:
            return 0
        with translated(self._key, where=self._where):
            fetched: Any = obstore.get_range(self._store, self._key, start=self._position, end=stop)
        count = len(fetched)
        view[:count] = memoryview(fetched)
        self._position += count
        return count


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
