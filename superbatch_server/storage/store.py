"""The store of everything the service makes: lists, scores, embeddings, indexes. Each object is written once.

Measured: obstore's local store links its files but never calls fsync (obstore 0.12), so the local one is our own.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError

from superbatch_server.schemas.errors import InvalidRequest, Unavailable
from superbatch_server.storage.places import local_folder, require_safe
from superbatch_server.storage.remote import missing, open_remote, translated

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_PARTIAL = ".partial"


class ArtifactStore(Protocol):
    """Immutable objects by key.

    Law: `put_new` makes an object visible whole or not at all, never replaces one, and returns only when it (or the
    one that was there first) survives a power cut. Of racing writers of one key exactly one gets True.
    """

    url: str

    def put_new(self, key: str, data: bytes) -> bool:
        """Create an object; False when there is one under the key already."""
        ...

    def get(self, key: str) -> bytes:
        """Return a whole object; ObjectMissing when there is none."""
        ...

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop), cut at the end of the object."""
        ...

    def size(self, key: str) -> int:
        """Return the length in bytes."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is an object under the key."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the path on this machine of an existing object, None when the store is remote."""
        ...


def open_store(url: str) -> ArtifactStore:
    """Return the store at a path or a file, s3, gs or az URL; a local folder is created."""
    folder = local_folder(url)
    if folder is not None:
        return LocalStore(url, folder=folder)
    return RemoteStore(url, store=open_remote(url, where="store"))


class LocalStore:
    """A folder: temporary file, fsync, link without overwriting, fsync of the folder."""

    def __init__(self, url: str, *, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._durable: set[Path] = set()
        (folder / _PARTIAL).mkdir(parents=True, exist_ok=True)

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the file; False when it exists."""
        path = self._path(key)
        try:
            self._make_folder(path.parent)
            created = not path.exists() and self._link_new(path, data)
            _sync_folder(path.parent)
        except OSError as error:
            raise Unavailable(
                f"the store must be writable; got {error.strerror!r} (store, key {key!r}). "
                "Check its disk and permissions."
            ) from error
        return created

    def get(self, key: str) -> bytes:
        """Return the file's bytes."""
        path = self._existing(key)
        return path.read_bytes()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Return part of the file."""
        _require_range(key, start, stop)
        with self._existing(key).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def size(self, key: str) -> int:
        """Return the file's length."""
        return self._existing(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Return whether the file is there."""
        return self._path(key).is_file()

    def local_path(self, key: str) -> Path | None:
        """Return the file's path."""
        return self._existing(key)

    def _path(self, key: str) -> Path:
        return self._folder / require_safe(key, where="store")

    def _existing(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise missing(key, where="store")
        return path

    def _link_new(self, path: Path, data: bytes) -> bool:
        partial = self._folder / _PARTIAL / secrets.token_hex(16)
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _make_folder(self, folder: Path) -> None:
        """Create folders down to `folder`, each durable in its parent."""
        if folder in self._durable:
            return
        if folder != self._folder:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
        self._durable.add(folder)


class RemoteStore:
    """A bucket, or a prefix in one; create-if-absent is the store's own."""

    def __init__(self, url: str, *, store: ObjectStore) -> None:
        self.url = url
        self._store = store

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object; False when it exists."""
        with translated(require_safe(key, where="store"), where="store"):
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def get(self, key: str) -> bytes:
        """Return the object's bytes."""
        with translated(require_safe(key, where="store"), where="store"):
            return bytes(obstore.get(self._store, key).bytes())

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Return part of the object."""
        _require_range(key, start, stop)
        stop = min(stop, self.size(key))
        if stop <= start:
            return b""
        with translated(key, where="store"):
            return bytes(obstore.get_range(self._store, key, start=start, end=stop))

    def size(self, key: str) -> int:
        """Return the object's length."""
        with translated(require_safe(key, where="store"), where="store"):
            return int(obstore.head(self._store, key)["size"])

    def exists(self, key: str) -> bool:
        """Return whether the object is there."""
        with translated(require_safe(key, where="store"), where="store"):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
        return True

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        """A remote object has no path."""
        return None


def _require_range(key: str, start: int, stop: int) -> None:
    if not 0 <= start <= stop:
        raise InvalidRequest(f"a range must satisfy 0 <= start <= stop; got [{start}, {stop}) (store, key {key!r}).")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
