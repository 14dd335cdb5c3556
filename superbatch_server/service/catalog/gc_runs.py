"""Runs of the garbage collection in the catalog: PENDING, then RUNNING under one worker, then SUCCEEDED or FAILED."""

from __future__ import annotations

import secrets

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, or_, select, text, update

from superbatch_server.schemas.errors import NotFound, WrongState
from superbatch_server.schemas.garbage import GarbageReport, GarbageRun, GarbageRunState
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import gc_runs

KEPT_RUNS = 20
SILENT_MS = 60_000
"""A worker notes its progress every second or two; one that was silent for so long is dead, and another takes over."""

_UNDER_WAY = (GarbageRunState.PENDING, GarbageRunState.RUNNING)


def begin_run(connection: Connection, *, dry_run: bool, min_age_s: float) -> GarbageRun:
    """Add a PENDING run; one at a time."""
    if connection.dialect.name == "postgresql":  # SQLite: the write lock is held already
        connection.execute(text("SELECT pg_advisory_xact_lock(7312)"))
    query = select(gc_runs.c.id).where(gc_runs.c.state.in_(_UNDER_WAY)).limit(1)
    if (other := connection.execute(query).scalar_one_or_none()) is not None:
        raise WrongState(
            f"one garbage collection may be under way; got {other}, which has not ended (gc). "
            f"Follow it with GET /v1/gc/{other}, then ask again."
        )
    run_id, at_ms = f"gc_{secrets.token_hex(8)}", now_ms(connection)
    connection.execute(
        insert(gc_runs).values(
            id=run_id,
            state=GarbageRunState.PENDING,
            dry_run=dry_run,
            min_age_ms=round(min_age_s * 1000),
            report=stored(GarbageReport()),
            created_ms=at_ms,
            updated_ms=at_ms,
        )
    )
    newest = select(gc_runs.c.id).order_by(gc_runs.c.created_ms.desc(), gc_runs.c.id).limit(KEPT_RUNS)
    kept = list(connection.execute(newest).scalars())
    connection.execute(delete(gc_runs).where(gc_runs.c.id.not_in([*kept, run_id])))
    return get_run(connection, run_id)


def get_run(connection: Connection, run_id: str) -> GarbageRun:
    """Return one run, or raise NotFound."""
    row = connection.execute(select(gc_runs).where(gc_runs.c.id == run_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"a garbage collection must be one of the newest {KEPT_RUNS}; got {run_id[:64]!r} (gc).")
    return _run(row)


def is_any_pending(connection: Connection) -> bool:
    """Claim that a run waits for a worker, or lost the one that it had."""
    return connection.execute(select(gc_runs.c.id).where(_may_be_taken(connection)).limit(1)).first() is not None


def take_run(connection: Connection, worker: str) -> GarbageRun | None:
    """Give the oldest run that waits to a worker; None when there is none.

    What an earlier worker has removed stays in its report: nobody will find it again.
    """
    query = select(gc_runs).where(_may_be_taken(connection)).order_by(gc_runs.c.created_ms).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).mappings().one_or_none()
    if row is None:
        return None
    taken = {"state": GarbageRunState.RUNNING, "worker": worker, "updated_ms": now_ms(connection)}
    connection.execute(update(gc_runs).where(gc_runs.c.id == row["id"]).values(**taken))
    return get_run(connection, row["id"])


def note_progress(
    connection: Connection,
    run_id: str,
    worker: str,
    report: GarbageReport,
    *,
    state: GarbageRunState = GarbageRunState.RUNNING,
    error: str | None = None,
) -> bool:
    """Note how far a run is, or how it ended; False when it is another worker's by now."""
    mine = and_(gc_runs.c.id == run_id, gc_runs.c.worker == worker, gc_runs.c.state == GarbageRunState.RUNNING)
    values = {"report": stored(report), "state": state, "error": error, "updated_ms": now_ms(connection)}
    return connection.execute(update(gc_runs).where(mine).values(**values)).rowcount == 1


def _may_be_taken(connection: Connection) -> ColumnElement[bool]:
    silent = gc_runs.c.updated_ms < now_ms(connection) - SILENT_MS
    return or_(gc_runs.c.state == GarbageRunState.PENDING, and_(gc_runs.c.state == GarbageRunState.RUNNING, silent))


def _run(row: RowMapping) -> GarbageRun:
    return GarbageRun(
        id=row["id"],
        state=GarbageRunState(row["state"]),
        dry_run=row["dry_run"],
        min_age_s=row["min_age_ms"] / 1000,
        report=GarbageReport.model_validate_json(row["report"]),
        error=row["error"],
        created_at=rfc3339(row["created_ms"]),
        updated_at=rfc3339(row["updated_ms"]),
    )
