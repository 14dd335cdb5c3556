"""What an attempt reads and records besides its lease and its segments: bundle, schedule, cache, numerics, pool."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select

from superbatch_server.schemas.attempts import (
    AttemptBundle,
    CacheEntry,
    CacheFound,
    CheckpointCandidate,
    Numerics,
    PoolReport,
    Runtime,
    ScheduleRow,
    WalkPosition,
)
from superbatch_server.schemas.errors import Conflict, NumericsChanged
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.service.catalog.cache_uses import note_uses
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.datasets import get_dataset, shard_entries
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.lease import Attempt, fence
from superbatch_server.service.catalog.models import get_model
from superbatch_server.service.catalog.queue import job_row, update_job
from superbatch_server.service.catalog.segments import newest_log_files
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import cache, checkpoints, schedule_rows


def bundle(connection: Connection, attempt: Attempt, *, runtime: Runtime) -> AttemptBundle:
    """Return everything that a driver starts from, of one moment."""
    job = fence(connection, attempt, lock=False)
    spec = CurateSpec.model_validate_json(job["spec"])
    dataset = get_dataset(connection, job["dataset_id"])
    assert dataset.fingerprint is not None, "only a READY data set has jobs"
    assert dataset.rows is not None, "only a READY data set has jobs"
    schedule = _schedule(connection, job["id"], from_seq=job["next_seq"])
    replay = _replay(connection, spec.refresh.replay, from_seq=job["next_seq"])
    return AttemptBundle(
        job_id=job["id"],
        history_id=job["history_id"],
        token=job["token"],
        spec=spec,
        next_seq=job["next_seq"],
        next_walk=WalkPosition.model_validate_json(job["next_walk"]),
        dataset_id=dataset.id,
        dataset_fingerprint=dataset.fingerprint,
        dataset_rows=dataset.rows,
        manifest=dataset.manifest,
        shards=shard_entries(connection, dataset.id),
        reference=get_model(connection, job["reference_id"]) if job["reference_id"] else None,
        learner=get_model(connection, job["learner_id"]) if job["learner_id"] else None,
        numerics=json.loads(job["numerics"]) if job["numerics"] else None,
        eligible_digest=job["eligible_digest"],
        schedule=schedule,
        replay=replay,
        scheduled_checkpoints=_checkpoints(
            connection, {row.checkpoint.id for row in [*schedule, *replay] if row.checkpoint}
        ),
        log_files=newest_log_files(connection, job["id"]),
        runtime=runtime,
    )


def record_schedule(connection: Connection, attempt: Attempt, row: ScheduleRow) -> ScheduleRow:
    """Record what decides a batch, unless that was done before; return what is recorded."""
    fence(connection, attempt)
    table = schedule_rows.c
    query = select(table.body).where(
        table.job_id == attempt.job_id, table.seq == row.seq, table.row_attempt == row.row_attempt
    )
    recorded = connection.execute(query).scalar_one_or_none()
    if recorded is not None:
        return ScheduleRow.model_validate_json(recorded)
    connection.execute(
        insert(schedule_rows).values(job_id=attempt.job_id, seq=row.seq, row_attempt=row.row_attempt, body=stored(row))
    )
    return row


def find_cached(connection: Connection, attempt: Attempt, cache_keys: list[str]) -> CacheFound:
    """Return the committed shards among the keys, and note that the job needs them."""
    job = fence(connection, attempt, lock=False)
    found: list[CacheEntry] = []
    for start in range(0, len(cache_keys), 500):
        query = select(cache).where(cache.c.cache_key.in_(cache_keys[start : start + 500])).order_by(cache.c.cache_key)
        held = query.with_for_update(read=True, key_share=True)  # until the uses are noted
        found.extend(_entry(row) for row in connection.execute(held).mappings())
    note_uses(connection, job, found)
    return CacheFound(entries=found)


def commit_cached(connection: Connection, attempt: Attempt, entry: CacheEntry) -> CacheEntry:
    """Commit a shard and return the entry that readers see: the first one of its key."""
    job = fence(connection, attempt)
    query = select(cache).where(cache.c.cache_key == entry.cache_key).with_for_update(read=True, key_share=True)
    earlier = connection.execute(query).mappings().one_or_none()
    if earlier is not None:
        note_uses(connection, job, [_entry(earlier)])
        return _entry(earlier)
    values: dict[str, Any] = entry.model_dump() | {"quarantined": stored(dict(entry.quarantined))}
    connection.execute(insert(cache).values(created_ms=now_ms(connection), **values))
    note_uses(connection, job, [entry])
    update_job(connection, attempt.job_id, crashes=0)
    return entry


def record_numerics(connection: Connection, attempt: Attempt, numerics: Numerics) -> Numerics:
    """Record the job's numerics profile; a later attempt must run under the same one."""
    job = fence(connection, attempt)
    if job["numerics_digest"] is None:
        update_job(connection, attempt.job_id, numerics=stored(dict(numerics.profile)), numerics_digest=numerics.digest)
    elif job["numerics_digest"] != numerics.digest:
        raise NumericsChanged(
            f"every attempt of a job must run under one numerics profile; got {stored(dict(numerics.profile))}, "
            f"the job began under {job['numerics']} (job {attempt.job_id}). "
            "Run it on such a machine with these settings, or submit a new job."
        )
    return numerics


def report_pool(connection: Connection, attempt: Attempt, report: PoolReport) -> None:
    """Record the eligible set of a finished index pass; it is the same in every attempt."""
    job = fence(connection, attempt)
    known = job["eligible_digest"]
    if known is not None and known != report.eligible_digest:
        raise Conflict(
            f"the eligible set of a job must not change; got {report.eligible_digest}, recorded is {known} "
            f"(job {attempt.job_id}). The data set or the index program changed; submit a new job."
        )
    update_job(connection, attempt.job_id, pool=stored(report), eligible_digest=report.eligible_digest)
    if known is None:
        fields = {"rows": report.rows, "eligible": report.eligible}
        add_event(
            connection, attempt.job_id, "indexed", f"{report.eligible} of {report.rows} rows are eligible", fields
        )


def _schedule(connection: Connection, job_id: str, *, from_seq: int, stop_seq: int | None = None) -> list[ScheduleRow]:
    """Return the newest row attempt of each seq in [from_seq, stop_seq)."""
    table = schedule_rows.c
    newest = (
        select(table.seq, func.max(table.row_attempt).label("row_attempt"))
        .where(table.job_id == job_id, table.seq >= from_seq)
        .group_by(table.seq)
        .subquery()
    )
    query = (
        select(table.body)
        .join(newest, (table.seq == newest.c.seq) & (table.row_attempt == newest.c.row_attempt))
        .where(table.job_id == job_id)
        .order_by(table.seq)
    )
    if stop_seq is not None:
        query = query.where(table.seq < stop_seq)
    return [ScheduleRow.model_validate_json(body) for body in connection.execute(query).scalars()]


def _replay(connection: Connection, job_id: str | None, *, from_seq: int) -> list[ScheduleRow]:
    """Return the rows under which another job published: its last attempt at a row may not have been published."""
    if job_id is None:
        return []
    replayed = job_row(connection, job_id)
    return _schedule(connection, job_id, from_seq=from_seq, stop_seq=replayed["next_seq"])


def _checkpoints(connection: Connection, ids: set[str]) -> list[CheckpointCandidate]:
    query = select(checkpoints).where(checkpoints.c.id.in_(ids)).order_by(checkpoints.c.ordinal)
    return [
        CheckpointCandidate.model_validate(
            {name: row[name] for name in ("id", "sha256", "trained_seq", "generation", "state")}
            | {"files": json.loads(row["files"])}
        )
        for row in connection.execute(query).mappings()
    ]


def _entry(row: RowMapping) -> CacheEntry:
    fields = {name: row[name] for name in CacheEntry.model_fields}
    return CacheEntry.model_validate(fields | {"quarantined": json.loads(row["quarantined"])})
