"""The log of one attempt, a part at a time; without a place asked for, its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from superbatch_server.schemas.errors import LogMissing
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.dashboard.attempts import AttemptLine, list_attempts
from superbatch_server.service.dashboard.job_head import JobHead, read_job_head
from superbatch_server.service.following.attempt_logs import LogPart, attempt_log, read_log

PART_BYTES = 32 << 10
SHOWN_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class LogsPage:
    """The page; `missing` says why there is no part."""

    head: JobHead
    attempts: list[AttemptLine]
    attempt: int
    part: LogPart | None
    missing: str
    is_tail: bool
    is_running: bool

    @property
    def text(self) -> str:
        """The part as text; at the end of a long log without the rest of the line before it."""
        if self.part is None:
            return ""
        _, line_end, rest = self.part.text.partition("\n")
        return rest if self.is_tail and self.part.after and line_end else self.part.text

    @property
    def older(self) -> int | None:
        """Where the part before this one begins, None at the log's beginning."""
        return max(0, self.part.after - PART_BYTES) if self.part and self.part.after > 0 else None

    @property
    def newer(self) -> int | None:
        """Where the part after this one begins, None at the log's end."""
        return self.part.next_after if self.part and self.part.next_after < self.part.size else None


def read_logs_page(engine: Engine, job_id: str, *, attempt: int | None, after: int | None, logs_dir: Path) -> LogsPage:
    """Return a part of an attempt's log, by default the end of the newest one. Raises: NotFound, InvalidRequest."""
    with read(engine) as connection:
        head = read_job_head(connection, job_id, "logs")
        lines = list_attempts(connection, job_id, limit=SHOWN_ATTEMPTS)
        part, missing, number, is_running = None, "", attempt or 0, False
        try:
            found = attempt_log(connection, job_id, attempt, logs_dir=logs_dir)
            number, is_running = found.attempt, found.is_running
        except LogMissing as error:
            found, missing = None, str(error)
    if found is not None and found.path is not None:
        try:
            part = read_log(found.path, -PART_BYTES if after is None else after, PART_BYTES)
        except LogMissing as error:
            missing = str(error)
    elif found is not None:
        missing = "No process has begun yet, so nothing is logged."
    return LogsPage(head, lines, number, part, missing, after is None, is_running)
