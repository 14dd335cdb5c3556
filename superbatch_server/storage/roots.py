"""Roots: the named places that data, models and checkpoints are read from. Nothing is ever written to a root."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import obstore

from superbatch_server.schemas.errors import ObjectMissing, UnknownRoot, UnsafeKey
from superbatch_server.storage.places import local_folder, require_safe
from superbatch_server.storage.remote import READ_AHEAD_BYTES, missing, open_remote, remote_file, translated

if TYPE_CHECKING:
    from obstore.store import ObjectStore


@dataclass(frozen=True)
class ObjectStat:
    """What identifies the present content of an object: an etag in a store, a time of change on a disk."""

    size: int
    etag: str | None
    mtime_ns: int | None


class Root(Protocol):
    """A place to read from.

    Law: a key is a relative path; whatever it is spelled like or linked to, nothing outside the root is ever opened
    (UnsafeKey). A key without a readable regular object raises ObjectMissing, a store that does not answer Unavailable.
    """

    name: str
    url: str

    def stat(self, key: str) -> ObjectStat:
        """Return size and identity of an object."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Return a buffered, seekable file; the caller closes it."""
        ...

    def read(self, key: str) -> bytes:
        """Return a whole object."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the object's path on this machine, None when the root is an object store."""
        ...


def open_roots(urls: Mapping[str, str]) -> dict[str, Root]:
    """Return the roots of a deployment, by name.

    Args:
        urls: root name to a path or a file, s3, gs or az URL.
    Raises:
        InvalidInput: a URL of another kind, or one that its client refuses.
    """
    return {name: _open_root(name, url) for name, url in urls.items()}


def find_root(roots: Mapping[str, Root], name: str) -> Root:
    """Return the named root, or raise UnknownRoot with the names that exist."""
    if name not in roots:
        raise UnknownRoot(
            f"a root must be one of the deployment's; got {name!r}, known are {sorted(roots)}. "
            f"Start the service with it: superbatch serve --root {name}=/absolute/path."
        )
    return roots[name]


def _open_root(name: str, url: str) -> Root:
    folder = local_folder(url)
    if folder is not None:
        return LocalRoot(name, url, folder=folder)
    return RemoteRoot(name, url, store=open_remote(url, where=f"root {name}"))


class LocalRoot:
    """A folder of this machine."""

    def __init__(self, name: str, url: str, *, folder: Path) -> None:
        self.name, self.url = name, url
        self._folder = Path(os.path.realpath(folder))

    def stat(self, key: str) -> ObjectStat:
        """Return size and time of change."""
        _, found = self._find(key)
        return ObjectStat(size=found.st_size, etag=None, mtime_ns=found.st_mtime_ns)

    def open(self, key: str) -> BinaryIO:
        """Return the file, opened by its resolved path."""
        path, _ = self._find(key)
        try:
            return path.open("rb")
        except OSError as error:
            raise self._unreadable(key, error) from error

    def read(self, key: str) -> bytes:
        """Return the whole file."""
        with self.open(key) as file:
            return file.read()

    def local_path(self, key: str) -> Path | None:
        """Return the resolved path."""
        return self._find(key)[0]

    def _find(self, key: str) -> tuple[Path, os.stat_result]:
        require_safe(key, where=f"root {self.name}")
        path = Path(os.path.realpath(self._folder / key))
        if not path.is_relative_to(self._folder):
            raise UnsafeKey(
                f"a key must stay inside its root; got {key!r}, a link to a place outside (root {self.name}). "
                "Copy the object into the root, or add the place it links to as a root."
            )
        try:
            found = path.stat()
        except OSError as error:
            raise self._unreadable(key, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise ObjectMissing(f"a key must name a regular file; got {key!r} (root {self.name}). Name a file.")
        return path, found

    def _unreadable(self, key: str, error: OSError) -> ObjectMissing:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return missing(key, where=f"root {self.name}")
        return ObjectMissing(
            f"an object must be readable by the service; got {error.strerror!r} for {key!r} (root {self.name}). "
            "Change its permissions."
        )


class RemoteRoot:
    """A bucket, or a prefix in one."""

    def __init__(self, name: str, url: str, *, store: ObjectStore) -> None:
        self.name, self.url = name, url
        self._store = store

    def stat(self, key: str) -> ObjectStat:
        """Return size and etag, or the time of change where the store gives no etag."""
        require_safe(key, where=f"root {self.name}")
        with translated(key, where=f"root {self.name}"):
            head = obstore.head(self._store, key)
        etag = head["e_tag"]
        changed_ns = None if etag else int(head["last_modified"].timestamp() * 1000) * 1_000_000
        return ObjectStat(size=int(head["size"]), etag=etag, mtime_ns=changed_ns)

    def open(self, key: str) -> BinaryIO:
        """Return a file over ranged reads of a megabyte."""
        require_safe(key, where=f"root {self.name}")
        raw = remote_file(self._store, key, where=f"root {self.name}")
        return cast("BinaryIO", io.BufferedReader(raw, buffer_size=READ_AHEAD_BYTES))

    def read(self, key: str) -> bytes:
        """Return the whole object with one request."""
        require_safe(key, where=f"root {self.name}")
        with translated(key, where=f"root {self.name}"):
            return bytes(obstore.get(self._store, key).bytes())

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        """An object store has no path."""
        return None
