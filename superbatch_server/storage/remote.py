"""What roots and stores share of an object store: its errors, and a file that can be read anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from superbatch.formats.errors import InvalidInput
from superbatch_server.schemas.errors import ObjectMissing, Unavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from superbatch.reading.ranges import ByteRange
    from superbatch.reading.sparse_file import SparseFile

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


def remote_file(store: ObjectStore, key: str, *, where: str) -> SparseFile:
    """Return a seekable file over ranged reads of one object; wrap it in a BufferedReader."""
    from superbatch.reading.sparse_file import SparseFile  # here: its package loads pyarrow, and few roots are remote

    with translated(key, where=where):
        size_bytes = int(obstore.head(store, key)["size"])

    def fetch(wanted: ByteRange) -> bytes:
        with translated(key, where=where):
            return bytes(obstore.get_range(store, key, start=wanted.offset, length=wanted.length))

    return SparseFile(size_bytes, (), fetch=fetch)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
