"""Weights that a trainer uploads in parts: files in a folder whose names and lengths are all the state there is.

    <folder>/<job id>/<sha256>.<size>.part      an upload under way; its length says how far it is
    <folder>/<job id>/<sha256>.safetensors      a complete one, under its digest

Nothing else has to survive a restart or a power cut. What a disk may have lost or torn in the meantime the sha256 finds
when the upload is completed; the upload then begins again, and only a verified file ever gets its final name.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from superbatch_server.schemas.errors import (
    DigestMismatch,
    InsufficientStorage,
    NotFound,
    Unavailable,
    UploadIncomplete,
    WrongOffset,
)
from superbatch_server.schemas.uploads import UPLOADS_ROOT
from superbatch_server.storage.disk import is_full, sync_folder
from superbatch_server.storage.roots import LocalRoot
from superbatch_server.storage.safetensors_header import read_safetensors_header

_COMPLETE = ".safetensors"
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
        return next((found for found in self.of_job(job_id) if found.sha256 == sha256), None)

    def begin(self, job_id: str, sha256: str, *, size_bytes: int) -> UploadFile:
        """Return the upload of these bytes: a new one, or the one that is there, to be gone on with.

        Raises:
            Unavailable: the folder cannot be used.
        """
        found = self.find(job_id, sha256)
        if found is not None and (found.is_complete or found.size_bytes == size_bytes):
            os.utime(found.path)  # somebody still wants it: its time to live begins again
            return found
        if found is not None:
            found.path.unlink(missing_ok=True)
        with _using(self.folder):
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
        with _locked(upload.path) as descriptor, _using(self.folder):
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
        """
        if upload.is_complete:
            return upload
        final = self.folder / upload.key
        with _locked(upload.path) as descriptor:
            if final.exists():  # another request completed it while this one waited
                return _found(final, upload.job_id)
            received = os.fstat(descriptor).st_size
            if received != upload.size_bytes:
                raise UploadIncomplete(
                    f"an upload must be whole before it is completed; got {received} of {upload.size_bytes} bytes "
                    f"(job {upload.job_id}, upload {upload.sha256}). Go on at byte {received}."
                )
            try:
                _check(upload)
            except Exception:
                upload.path.unlink(missing_ok=True)
                raise
            with _using(self.folder):
                os.replace(upload.path, final)
                sync_folder(final.parent)
                return _found(final, upload.job_id)

    def remove(self, upload: UploadFile) -> None:
        """Forget an upload, once no part of it is being written."""
        with _locked(upload.path), _using(self.folder):
            upload.path.unlink(missing_ok=True)
            sync_folder(upload.path.parent)

    def of_job(self, job_id: str) -> list[UploadFile]:
        """Return the uploads of a job, complete ones first; none for what is no job id."""
        if not _JOB_ID.fullmatch(job_id):
            return []
        with _using(self.folder):
            try:
                paths = list((self.folder / job_id).iterdir())
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
        raise _gone(path) from error
    if part is None and path.suffix != _COMPLETE:
        raise _gone(path)
    return UploadFile(
        path=path,
        job_id=job_id,
        sha256=part[1] if part else path.stem,
        size_bytes=int(part[2]) if part else stat.st_size,
        received_bytes=stat.st_size,
        is_complete=part is None,
        touched_s=stat.st_mtime,
    )


def _gone(path: Path) -> NotFound:
    return NotFound(
        f"an upload must have been begun and not be forgotten; got {path.name[:64]} (job {path.parent.name}). "
        "Begin it again with POST uploads."
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


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a part for one writer at a time, over threads and processes; the lock ends with whoever holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError as error:
        raise _gone(path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _using(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise InsufficientStorage(
                f"the disk of uploads must have room; got {error.strerror!r} ({folder}). Make room on it: superbatch "
                "gc says what may go. The upload goes on where it is."
            ) from error
        raise Unavailable(
            f"the folder of uploads must be usable; got {error.strerror!r} ({folder}). Check its disk and "
            "permissions; the upload goes on where it is."
        ) from error


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
