"""Files of uploads under a lock of the operating system, and what its disk says in our own words."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superbatch_server.schemas.errors import InsufficientStorage, InUse, NotFound, Unavailable
from superbatch_server.storage.disk import is_full


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Open a part for one writer at a time, over threads and processes; the lock ends with whoever holds it."""
    with using(path.parent):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError as error:
            raise gone(path) from error
    with held(descriptor, how=fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield descriptor


@contextmanager
def held(descriptor: int, *, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Lock an open file, and close it at the end."""
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError as error:
            raise InUse(
                "an upload can be changed in this way while nothing is written to it; got one of which a part is being "
                "written or the whole is being checked (upload). Ask again when that has ended."
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Turn what the disk says into an answer: InsufficientStorage, or Unavailable."""
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


def gone(path: Path) -> NotFound:
    """Return the error for an upload that is not there any more."""
    return NotFound(
        f"an upload must have been begun and not be forgotten; got {path.name[:64]} (job {path.parent.name}). "
        "Begin it again with POST uploads."
    )
