"""Weights that a trainer uploads in parts: files in a folder whose names and lengths are all the state there is.

    <folder>/<job id>/<sha256>.<size>.part      an upload under way; its length says how far it is
    <folder>/<job id>/<sha256>.safetensors      a complete one, under its digest

Nothing else has to survive a restart or a power cut. What a disk may have lost or torn in the meantime the sha256 finds
when the upload is completed; the upload then begins again, and only a verified file ever gets its final name.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from superbatch_server.schemas.errors import (
    Conflict,
    DigestMismatch,
    NotFound,
    NotSafetensors,
    PickleRefused,
    UploadIncomplete,
    WrongOffset,
)
from superbatch_server.schemas.uploads import UPLOADS_ROOT
from superbatch_server.storage.disk import sync_folder
from superbatch_server.storage.roots import LocalRoot
from superbatch_server.storage.safetensors_header import read_safetensors_header
from superbatch_server.storage.upload_locks import gone, held, locked, using

_COMPLETE = ".safetensors"
_LOCK = ".lock"
_WRONG_BYTES = (DigestMismatch, PickleRefused, NotSafetensors)
_PART = re.compile(r"([0-9a-f]{64})\.([0-9]{1,15})\.part")
_JOB_ID = re.compile(r"[a-z]+_[0-9a-f]{16}")


@dataclass(frozen=True)
class UploadFile:
    """One upload as it lies on the disk: of which job, its digest and final length, how much of it is there."""

    path: Path
    job_id: str
    sha256: str
    size_bytes: int
    received_bytes: int
    is_complete: bool
    touched_s: float
    """Time of the last change or question, by the file system's clock."""

    @property
    def key(self) -> str:
        """Key of the complete file in the root `uploads`."""
        return f"{self.job_id}/{self.sha256}{_COMPLETE}"


class Uploads:
    """The folder of uploads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def root(self) -> LocalRoot:
        """The complete uploads, as a root to read from."""
        return LocalRoot(UPLOADS_ROOT, self.folder.as_uri(), folder=self.folder)

    def find(self, job_id: str, sha256: str) -> UploadFile | None:
        """Return the upload of these bytes, None where there is none."""
        return next(iter(self._named(job_id, sha256)), None)

    @contextmanager
    def reserving(self) -> Iterator[None]:
        """Let nobody else begin an upload meanwhile, so that the room which was found stays free."""
        with using(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with held(descriptor):
            yield

    def begin(self, job_id: str, sha256: str, *, size_bytes: int) -> UploadFile:
        """Return the upload of these bytes: a new one, or the one that is there, to be gone on with.

        Raises:
            Conflict: parts of it are there, and its size was said to be another.
            InUse: such a part is being written.
            Unavailable: the folder cannot be used.
        """
        found = self.find(job_id, sha256)
        if found is not None and (found.is_complete or found.size_bytes == size_bytes):
            os.utime(found.path)  # somebody still wants it: its time to live begins again
            return found
        if found is not None:
            self._forget_empty(found, size_bytes=size_bytes)
        with using(self.folder):
            (self.folder / job_id).mkdir(parents=True, exist_ok=True)
            path = self.folder / job_id / f"{sha256}.{size_bytes}.part"
            path.touch()
            sync_folder(path.parent)
        return _found(path, job_id)

    def append(self, upload: UploadFile, content: bytes, *, offset: int) -> UploadFile:
        """Write a part and return the upload; what is answered for is on the disk, and nothing of a part that failed.

        A part that is there already, byte for byte, is answered as done: its first answer may have been lost.
        Raises:
            WrongOffset: the upload does not end at `offset`, or the part reaches beyond its size, or other bytes are
                there.
            NotFound: it was removed in the meantime.
            InsufficientStorage: the disk is full.
            Unavailable: the disk fails.
        """
        with locked(upload.path) as descriptor, using(self.folder):
            received = os.fstat(descriptor).st_size
            if offset < received and os.pread(descriptor, len(content), offset) == content:
                return _found(upload.path, upload.job_id)
            if offset != received or offset + len(content) > upload.size_bytes:
                raise WrongOffset(
                    f"a part must begin where the upload ends and stay within its size; got [{offset}, "
                    f"{offset + len(content)}) where {received} of {upload.size_bytes} bytes are there "
                    f"(job {upload.job_id}, upload {upload.sha256}). Go on at byte {received}."
                )
            try:
                _write_all(descriptor, content, offset)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, received)
                raise
            return _found(upload.path, upload.job_id)

    def complete(self, upload: UploadFile) -> UploadFile:
        """Check the bytes and give the file its final name; one that fails the check is removed.

        Raises:
            UploadIncomplete: parts are missing.
            DigestMismatch: the bytes are not the announced ones.
            PickleRefused, NotSafetensors: they are, but are no weights.
            Unavailable: the disk fails; the upload stays.
        """
        if upload.is_complete:
            return upload
        final = self.folder / upload.key
        with locked(upload.path) as descriptor:
            if final.exists():  # another request completed it while this one waited
                return _found(final, upload.job_id)
            received = os.fstat(descriptor).st_size
            if received != upload.size_bytes:
                raise UploadIncomplete(
                    f"an upload must be whole before it is completed; got {received} of {upload.size_bytes} bytes "
                    f"(job {upload.job_id}, upload {upload.sha256}). Go on at byte {received}."
                )
            with using(self.folder):
                try:
                    _check(upload)
                except _WRONG_BYTES:
                    upload.path.unlink(missing_ok=True)
                    raise
                os.replace(upload.path, final)
                sync_folder(final.parent)
                return _found(final, upload.job_id)

    @contextmanager
    def at_rest(self, upload: UploadFile) -> Iterator[None]:
        """Keep everybody from writing or completing an upload meanwhile, without waiting for who does.

        Raises:
            InUse: somebody does.
            NotFound: it was removed or completed in the meantime.
        """
        with locked(upload.path, wait=False):
            if not upload.path.exists():
                raise gone(upload.path)
            yield

    def remove(self, upload: UploadFile) -> None:
        """Forget an upload that is `at_rest`."""
        with using(self.folder):
            upload.path.unlink(missing_ok=True)
            sync_folder(upload.path.parent)

    def of_job(self, job_id: str) -> list[UploadFile]:
        """Return the uploads of a job, complete ones first; none for what is no job id."""
        return self._named(job_id, "")

    def _named(self, job_id: str, start: str) -> list[UploadFile]:
        """Return the uploads whose names begin so; no other file is looked at."""
        if not _JOB_ID.fullmatch(job_id):
            return []
        with using(self.folder):
            try:
                paths = [path for path in (self.folder / job_id).iterdir() if path.name.startswith(start)]
            except FileNotFoundError:
                return []
        paths.sort(key=lambda path: (path.suffix != _COMPLETE, path.name))
        return [found for path in paths if (found := _found_or_none(path, job_id)) is not None]

    def all(self) -> Iterator[UploadFile]:
        """Yield every upload of every job."""
        if self.folder.is_dir():
            for folder in sorted(self.folder.iterdir()):
                yield from self.of_job(folder.name)

    def free_bytes(self) -> int:
        """Return what the disk still holds."""
        place = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return shutil.disk_usage(place).free

    def _forget_empty(self, upload: UploadFile, *, size_bytes: int) -> None:
        """Remove an upload of which nothing is there: somebody says another size now."""
        with self.at_rest(upload):
            received = upload.path.stat().st_size
            if received:
                raise Conflict(
                    f"an upload under way keeps the size with which it began, {upload.size_bytes}; got {size_bytes} "
                    f"where {received} bytes are there (job {upload.job_id}, upload {upload.sha256}). Go on with that "
                    "size, or DELETE the upload first."
                )
            self.remove(upload)


def _found_or_none(path: Path, job_id: str) -> UploadFile | None:
    try:
        return _found(path, job_id)
    except NotFound:
        return None


def _found(path: Path, job_id: str) -> UploadFile:
    part = _PART.fullmatch(path.name)
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise gone(path) from error
    if part is None and path.suffix != _COMPLETE:
        raise gone(path)
    return UploadFile(
        path=path,
        job_id=job_id,
        sha256=part[1] if part else path.stem,
        size_bytes=int(part[2]) if part else stat.st_size,
        received_bytes=stat.st_size,
        is_complete=part is None,
        touched_s=stat.st_mtime,
    )


def _check(upload: UploadFile) -> None:
    with upload.path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
        if found != upload.sha256:
            raise DigestMismatch(
                f"an upload must have the sha256 under which it was begun, {upload.sha256}; got {found} "
                f"(job {upload.job_id}). Send all of its bytes again."
            )
        file.seek(0)
        read_safetensors_header(file, size=upload.size_bytes, where=f"upload {upload.sha256}")


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
