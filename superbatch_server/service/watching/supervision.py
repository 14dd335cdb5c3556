"""Whether anybody looks at the queue: supervisors by their heartbeats, and who waits for one."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from superbatch_server.schemas.jobs import JobState
from superbatch_server.schemas.supervisors import Supervisor
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.supervisors import list_supervisors
from superbatch_server.service.catalog.tables import jobs


@dataclass(frozen=True, slots=True)
class Supervision:
    """Supervisors and the queue that they look at; jobs that wait for a trainer or a checkpoint are not `queued`."""

    supervisors: list[Supervisor]
    queued: int
    waiting: int
    oldest_queued_s: float | None

    @property
    def num_live(self) -> int:
        """Supervisors that were seen lately."""
        return sum(each.is_live for each in self.supervisors)

    @property
    def warning(self) -> str:
        """What a person must know, empty where all is well."""
        if self.num_live:
            return ""
        last = min((each.age_s for each in self.supervisors), default=None)
        seen = "none has been seen" if last is None else f"the last one was seen {last:,.0f} s ago"
        return f"No supervisor looks at the queue: {seen}. {self._kept_waiting}."

    @property
    def _kept_waiting(self) -> str:
        if not self.queued:
            return "A job that is submitted now would not start"
        return "1 job waits" if self.queued == 1 else f"{self.queued:,} jobs wait"


def read_supervision(connection: Connection) -> Supervision:
    """Return who looks at the queue, and how long it is."""
    in_queue = select(func.count(), func.min(jobs.c.updated_ms)).where(jobs.c.state == JobState.QUEUED)
    queued, oldest_ms = connection.execute(in_queue.where(jobs.c.waits_for.is_(None))).one()
    waiting, _ = connection.execute(in_queue.where(jobs.c.waits_for.is_not(None))).one()
    return Supervision(
        supervisors=list_supervisors(connection),
        queued=queued,
        waiting=waiting,
        oldest_queued_s=None if oldest_ms is None else max(0, now_ms(connection) - oldest_ms) / 1000,
    )
