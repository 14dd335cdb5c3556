"""A job's attempts and its newest events, as the page shows them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.jobs import Event
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.tables import attempts, events


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One attempt: `took` is a duration as text, `process` says where it ran."""

    token: int
    outcome: str
    process: str
    started_at: str
    took: str


def list_attempts(connection: Connection, job_id: str, *, limit: int) -> list[AttemptLine]:
    """Return the newest attempts of a job, newest first."""
    query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.token.desc()).limit(limit)
    at_ms = now_ms(connection)
    return [_line(row, at_ms) for row in connection.execute(query).mappings()]


def newest_events(connection: Connection, job_id: str, *, limit: int) -> list[Event]:
    """Return the newest events of a job, newest first."""
    query = select(events).where(events.c.job_id == job_id).order_by(events.c.id.desc()).limit(limit)
    return [
        Event(
            id=row["id"],
            at=rfc3339(row["at_ms"]),
            kind=row["kind"],
            message=row["message"],
            fields=json.loads(row["fields"]),
        )
        for row in connection.execute(query).mappings()
    ]


def duration(seconds: float) -> str:
    """Return 0.4 s, 42 s, 3 min 05 s or 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest_s} s"
    return f"{minutes} min {rest_s:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def age(seconds: float) -> str:
    """Return how old something is, coarsely: 42 s, 3 min, 2 h, 5 d."""
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{int(seconds // length_s)} {unit}"
    return f"{int(seconds)} s"


def _line(row: RowMapping, at_ms: int) -> AttemptLine:
    ended_ms = row["ended_ms"]
    return AttemptLine(
        token=row["token"],
        outcome=(row["outcome"] or "ended").replace("_", " ") if ended_ms is not None else "running",
        process=f"{row['host']}, pid {row['pid']}" if row["pid"] else row["host"],
        started_at=rfc3339(row["started_ms"]),
        took=duration(max(0, (at_ms if ended_ms is None else ended_ms) - row["started_ms"]) / 1000),
    )
