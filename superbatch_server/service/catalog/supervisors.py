"""Who looks at the queue: each supervisor says every few seconds that it is there, and how much it runs."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from superbatch_server.schemas.supervisors import Supervisor
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.tables import supervisors

HEARTBEAT_S = 3.0

SILENT_MS = 30_000
"""One that was not seen for so long is taken for gone."""

KEPT_MS = 24 * 3600 * 1000
"""For so long it is told when one that vanished was last seen."""

SHOWN = 100


@dataclass(frozen=True)
class Identity:
    """What never changes of a supervisor."""

    id: str
    host: str
    pid: int
    runner: str
    max_running: int


def beat(connection: Connection, who: Identity, *, num_running: int) -> None:
    """Note that a supervisor is there; forget those that were not seen for a day."""
    at_ms = now_ms(connection)
    own = update(supervisors).where(supervisors.c.id == who.id).values(num_running=num_running, seen_ms=at_ms)
    if connection.execute(own).rowcount:
        return
    connection.execute(delete(supervisors).where(supervisors.c.seen_ms <= at_ms - KEPT_MS))
    connection.execute(
        insert(supervisors).values(
            id=who.id,
            host=who.host[:255],
            pid=who.pid,
            runner=who.runner,
            max_running=who.max_running,
            num_running=num_running,
            started_ms=at_ms,
            seen_ms=at_ms,
        )
    )


def forget(connection: Connection, supervisor_id: str) -> None:
    """Remove a supervisor that has stopped."""
    connection.execute(delete(supervisors).where(supervisors.c.id == supervisor_id))


def list_supervisors(connection: Connection) -> list[Supervisor]:
    """Return the supervisors, the last seen first."""
    at_ms = now_ms(connection)
    query = select(supervisors).order_by(supervisors.c.seen_ms.desc(), supervisors.c.id).limit(SHOWN)
    return [_supervisor(row, at_ms) for row in connection.execute(query).mappings()]


def _supervisor(row: RowMapping, at_ms: int) -> Supervisor:
    age_ms = max(0, at_ms - row["seen_ms"])
    same = ("id", "host", "pid", "runner", "max_running", "num_running")
    return Supervisor(
        **{name: row[name] for name in same},
        started_at=rfc3339(row["started_ms"]),
        seen_at=rfc3339(row["seen_ms"]),
        age_s=age_ms / 1000,
        is_live=age_ms < SILENT_MS,
    )
