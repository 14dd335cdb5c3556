"""A job's history, line by line, for people: what happened, when, by the database's clock."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Connection, insert, select

from superbatch_server.schemas.jobs import Event
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.engine import changed
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import events

Scalar = str | int | float | bool | None
MAX_MESSAGE_CHARS = 4000


def add_event(
    connection: Connection, job_id: str, kind: str, message: str, fields: Mapping[str, Scalar] | None = None
) -> None:
    """Add one line to a job's history."""
    changed(connection, job_id)
    connection.execute(
        insert(events).values(
            job_id=job_id,
            at_ms=now_ms(connection),
            kind=kind,
            message=message[:MAX_MESSAGE_CHARS],
            fields=stored(dict(fields or {})),
        )
    )


def list_events(connection: Connection, job_id: str, *, after: int, limit: int) -> list[Event]:
    """Return a job's events with an id above `after`, oldest first."""
    query = select(events).where(events.c.job_id == job_id, events.c.id > after).order_by(events.c.id).limit(limit)
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
