"""The store of everything the service makes: lists, scores, embeddings, indexes. Each object is written once.

Measured: obstore's local store links its files but never calls fsync (obstore 0.12), so the local one is our own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError

from superbatch_server.schemas.errors import InsufficientStorage, InvalidRequest, ObjectMissing, Unavailable
from superbatch_server.storage.disk import is_full, sync_folder
from superbatch_server.storage.places import local_folder, require_safe
from superbatch_server.storage.remote import missing, open_remote, translated

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_PARTIAL = ".partial"

PAGE_OBJECTS = 500
"""Objects that a listing yields at once: one list request of a bucket has at most twice as many."""


@dataclass(frozen=True)
class StoredFile:
    """One object of a listing: its key, its length, and when it was written by the clock of the store."""

    key: str
    size_bytes: int
    written_s: float


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

    def pages(self) -> Iterator[list[StoredFile]]:
        """Yield all objects, in any order, at most PAGE_OBJECTS at a time; what comes or goes meanwhile may be missed.

        An unfinished write of a dead writer is listed too, under a key below `.partial/`.
        """
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects that no row of the catalog names; one that is gone already is no error."""
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
            return self._put_new(path, data)
        except FileNotFoundError as error:
            self._durable.clear()  # an empty folder was removed since this process made it
            try:
                return self._put_new(path, data)
            except OSError as again:
                raise _unwritable(key, again) from error
        except OSError as error:
            raise _unwritable(key, error) from error

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

    def pages(self) -> Iterator[list[StoredFile]]:
        """Yield the files of the folder, page by page."""
        page: list[StoredFile] = []
        for path in _files_below(self._folder):
            with suppress(FileNotFoundError):
                found = path.stat()
                page.append(StoredFile(path.relative_to(self._folder).as_posix(), found.st_size, found.st_mtime))
            if len(page) == PAGE_OBJECTS:
                yield page
                page = []
        if page:
            yield page

    def remove(self, keys: Sequence[str]) -> None:
        """Remove files, and the folders that are empty then."""
        for key in keys:
            path = self._path(key)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(key, error) from error
            for folder in path.parents:
                if folder in (self._folder, self._folder / _PARTIAL) or not _removed_empty(folder):
                    break

    def _put_new(self, path: Path, data: bytes) -> bool:
        self._make_folder(path.parent)
        created = not path.exists() and self._link_new(path, data)
        sync_folder(path.parent)
        return created

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
            sync_folder(folder.parent)
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

    def pages(self) -> Iterator[list[StoredFile]]:
        """Yield the objects below the prefix, one list request of the store after the other."""
        with translated("", where="store"):
            for page in obstore.list(self._store, chunk_size=PAGE_OBJECTS):
                yield [StoredFile(meta["path"], meta["size"], meta["last_modified"].timestamp()) for meta in page]

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, many with one request where the store can."""
        with suppress(ObjectMissing), translated(", ".join(keys[:1]), where="store"):
            obstore.delete(self._store, [require_safe(key, where="store") for key in keys])


def _require_range(key: str, start: int, stop: int) -> None:
    if not 0 <= start <= stop:
        raise InvalidRequest(f"a range must satisfy 0 <= start <= stop; got [{start}, {stop}) (store, key {key!r}).")


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder; of the names in it, only those of open folders are in memory."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _removed_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _unwritable(key: str, error: OSError) -> InsufficientStorage | Unavailable:
    if is_full(error):
        return InsufficientStorage(
            f"the store must have room; got {error.strerror!r} (store, key {key!r}). "
            "Make room on its disk: superbatch gc says what may go. The work goes on by itself then."
        )
    return Unavailable(
        f"the store must be writable; got {error.strerror!r} (store, key {key!r}). Check its disk and permissions."
    )
