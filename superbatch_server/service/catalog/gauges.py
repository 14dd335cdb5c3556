"""The figures of the catalog that a monitoring system watches, in a handful of indexed queries."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, Select, func, select

from superbatch_server.schemas.attempts import sum_counts
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.stats import filter_ratio
from superbatch_server.service.catalog.tables import checkpoints, consumers, jobs, supervisors
from superbatch_server.service.catalog.totals import Totals

MAX_JOBS = 200
MAX_JOBS_OVER = 20
LIVE_MS = 30_000
"""A supervisor that was silent for longer is not counted."""

_OVER = [state for state in JobState if state.is_terminal]
_COLUMNS = (
    jobs.c.id,
    jobs.c.next_seq,
    jobs.c.num_batches,
    jobs.c.token,
    jobs.c.totals,
    jobs.c.num_revoked,
    jobs.c.created_ms,
    jobs.c.updated_ms,
)


@dataclass(frozen=True)
class CatalogGauges:
    """One look at the whole catalog."""

    jobs_by_state: dict[str, int]
    queue_age_s: float
    live_supervisors: int
    running_drivers: int
    jobs: dict[str, dict[str, float | None]]


def catalog_gauges(connection: Connection) -> CatalogGauges:
    """Return the gauges; those of single jobs for at most `MAX_JOBS` that are not over and the newest that are."""
    at_ms = now_ms(connection)
    counted = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
    # As GET /v1/storage counts it: a job that waits for its trainer is in nobody's way.
    may_run = (jobs.c.state == JobState.QUEUED) & jobs.c.waits_for.is_(None)
    oldest = select(func.min(jobs.c.updated_ms)).where(may_run)
    oldest_ms = connection.execute(oldest).scalar_one()
    is_live = supervisors.c.seen_ms > at_ms - LIVE_MS
    live = select(func.count(), func.coalesce(func.sum(supervisors.c.num_running), 0)).where(is_live)
    num_live, num_running = connection.execute(live).one()
    return CatalogGauges(
        jobs_by_state={**dict.fromkeys((str(state) for state in JobState), 0), **{row[0]: row[1] for row in counted}},
        queue_age_s=0.0 if oldest_ms is None else max(0, at_ms - oldest_ms) / 1000,
        live_supervisors=num_live,
        running_drivers=int(num_running),
        jobs=_jobs(connection, at_ms),
    )


def _jobs(connection: Connection, at_ms: int) -> dict[str, dict[str, float | None]]:
    newest = jobs.c.created_ms.desc()
    under_way = select(*_COLUMNS).where(jobs.c.state.not_in(_OVER)).order_by(newest).limit(MAX_JOBS)
    over = select(*_COLUMNS).where(jobs.c.state.in_(_OVER)).order_by(newest).limit(MAX_JOBS_OVER)
    rows = [row for query in (under_way, over) for row in connection.execute(query).mappings()]
    ids = [row["id"] for row in rows]
    learners = select(consumers.c.job_id, func.max(consumers.c.trained_seq)).where(
        consumers.c.job_id.in_(ids), consumers.c.role == "learner"
    )
    trained = _pairs(connection, learners.group_by(consumers.c.job_id))
    refreshes = select(checkpoints.c.job_id, func.max(checkpoints.c.generation)).where(checkpoints.c.job_id.in_(ids))
    generations = _pairs(connection, refreshes.group_by(checkpoints.c.job_id))
    return {row["id"]: _figures(row, at_ms, trained.get(row["id"]), generations.get(row["id"])) for row in rows}


def _pairs(connection: Connection, query: Select[str, int]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(query)}


def _figures(row: RowMapping, at_ms: int, trained_seq: int | None, generation: int | None) -> dict[str, float | None]:
    totals = Totals.model_validate_json(row["totals"]) if row["totals"] else Totals()
    return {
        "next_seq": row["next_seq"],
        "num_batches": row["num_batches"],
        "trained_seq": trained_seq,
        "generation": generation or 0,
        "filter_ratio": filter_ratio(sum_counts(totals.per_source.values())),
        "age_seconds": (at_ms - row["created_ms"]) / 1000,
        "quiet_seconds": (at_ms - row["updated_ms"]) / 1000,
        "attempts": row["token"],
        "revoked": row["num_revoked"],
    }
