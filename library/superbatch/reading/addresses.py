"""Which source reads a root: chosen by the root's address."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from superbatch.formats.errors import InvalidInput
from superbatch.reading.local_files import LocalFiles
from superbatch.reading.sources import RangeSource

Address = str | os.PathLike[str] | RangeSource


def open_source(address: Address, *, root: str) -> RangeSource:
    """Return the source of a root. Nothing is opened or asked for before its first read.

    Args:
        address: a local path; a URL of a folder (`file://`), a server (`http://`, `https://`) or an object store
            (`s3://bucket/prefix`, `gs://`, `abfs://`, with the options of pyarrow.fs behind `?`); or a source.
        root: name of the root, for messages.
    Returns:
        The source; one that was passed in comes back as it is.
    Raises:
        InvalidInput: a URL of another kind.
    """
    if not isinstance(address, str | os.PathLike):
        return address
    text = os.fspath(address)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if not scheme:
        return LocalFiles(text)
    if scheme == "file":
        return LocalFiles(unquote(urlsplit(text).path))
    if scheme in ("http", "https"):
        from superbatch.reading.http_server import HttpServer

        return HttpServer(text)
    if scheme in ("s3", "gs", "gcs", "abfs", "abfss"):
        from superbatch.reading.object_store import ObjectStore

        return ObjectStore(text)
    raise InvalidInput(
        f"a root is a local path or a file, http, https, s3, gs or abfs URL; got the scheme {scheme!r} (root {root}). "
        "Mount it, or pass ObjectStore(prefix, filesystem=...) with any file system of pyarrow or fsspec."
    )
