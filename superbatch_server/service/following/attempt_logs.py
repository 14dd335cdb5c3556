"""Drivers' logs, read by byte cursor: a file per attempt in the folder `logs` of the data directory.

What the catalog says of a log's place is believed only as far as it leads into that folder.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from superbatch_server.schemas.errors import InvalidRequest, LogMissing, NotFound
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.tables import attempts

MAX_LOG_BYTES = 1 << 20
"""The longest part of a log in one answer."""


@dataclass(frozen=True)
class AttemptLog:
    """Where the output of one attempt goes; no path before its process began."""

    job_id: str
    attempt: int
    path: Path | None
    is_running: bool


@dataclass(frozen=True)
class LogPart:
    """Bytes [after, next_after) of a log that has `size` bytes now."""

    content: bytes
    after: int
    next_after: int
    size: int

    @property
    def text(self) -> str:
        """The part as text; what is no UTF-8 is shown by replacement characters."""
        return self.content.decode("utf-8", "replace")


def attempt_log(connection: Connection, job_id: str, attempt: int | None, *, logs_dir: Path) -> AttemptLog:
    """Return where the log of an attempt is, by default of the newest one.

    Raises:
        NotFound: no such job or attempt.
        LogMissing: the catalog names a place outside `logs_dir`.
    """
    job = job_row(connection, job_id)
    number = job["token"] if attempt is None else attempt
    query = select(attempts).where(attempts.c.job_id == job_id, attempts.c.token == number)
    row = connection.execute(query).mappings().one_or_none()
    is_over = JobState(job["state"]).is_terminal
    if row is None:
        if attempt is not None:
            raise NotFound(
                f"an attempt must have begun; got {attempt} of {job['token']} (job {job_id}). "
                "Leave it out for the newest one."
            )
        return AttemptLog(job_id, number, None, is_running=not is_over)
    path = None if row["log_path"] is None else _inside(Path(row["log_path"]), logs_dir, job_id)
    return AttemptLog(job_id, number, path, is_running=row["ended_ms"] is None and not is_over)


def read_log(path: Path, after: int, limit: int) -> LogPart:
    """Return at most `limit` bytes of a log from byte `after`; a negative `after` counts from its end.

    A part ends before a character that is not whole yet, unless nothing else is in it.
    Raises:
        LogMissing: no regular file is there, or it may not be read.
        InvalidRequest: `after` lies beyond the log's end.
    """
    descriptor = _opened(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        start = max(0, size + after) if after < 0 else after
        if start > size:
            raise InvalidRequest(
                f"a cursor must lie within the log; got byte {after} of {size} (log {path.name}). "
                "Go on at a next_after of this log, or begin at 0."
            )
        file.seek(start)
        content = file.read(min(limit, size - start))
    if after < 0:
        cut = _continuation_bytes(content)
        start, content = start + cut, content[cut:]
    content = _whole_characters(content)
    return LogPart(content, start, start + len(content), size)


def _inside(path: Path, logs_dir: Path, job_id: str) -> Path:
    if not path.resolve().is_relative_to(logs_dir.resolve()):
        raise LogMissing(
            f"a log must lie in the service's own folder of logs; got another place (job {job_id}). "
            "Read it on the machine that ran the attempt."
        )
    return path


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _missing(path, errno.errorcode.get(error.errno or 0, "an error")) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _missing(path, "no regular file")
    return descriptor


def _missing(path: Path, what: str) -> LogMissing:
    return LogMissing(
        f"the log of an attempt must be a file that this process can read; got {what} (log {path.name}). "
        "It was removed, or it lies on the machine that ran the attempt."
    )


def _continuation_bytes(content: bytes) -> int:
    """Return how many bytes at the start belong to a character that began before."""
    for index, byte in enumerate(content[:4]):
        if byte & 0xC0 != 0x80:
            return index
    return 0


def _whole_characters(content: bytes) -> bytes:
    """Return the bytes without the beginning of a character at their end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(content)
    pending, _ = decoder.getstate()
    return content[: len(content) - len(pending)] if len(pending) < len(content) else content
