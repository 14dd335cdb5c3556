"""The queue as its user sees it: submit, cancel, retry, and the ends of a job.

QUEUED -> RUNNING -> SUCCEEDED | FAILED; CANCELLING -> CANCELLED; `retry` undoes FAILED. Who may run a job stands in
`claims.py`, what the attempt that runs it may do in `lease.py`.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from superbatch.formats.digests import log_digest_start
from superbatch_server.schemas.attempts import WalkPosition
from superbatch_server.schemas.errors import NotFound, WrongState
from superbatch_server.schemas.jobs import CurateSpec, JobState
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import changed
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import jobs, log_digests
from superbatch_server.service.catalog.wakeups import QUEUE


def submit_job(connection: Connection, spec: CurateSpec, *, job_id: str | None = None) -> RowMapping:
    """Add a QUEUED job with an empty log and return its row; `spec.draw.block_rows` must be resolved."""
    assert spec.draw.block_rows is not None, "the caller resolves draw.block_rows before it submits"
    job_id = job_id or f"job_{secrets.token_hex(8)}"
    history_id = f"hist_{secrets.token_hex(8)}"
    start_digest = log_digest_start(job_id, history_id).hex()
    at_ms = now_ms(connection)
    connection.execute(
        insert(jobs).values(
            id=job_id,
            name=spec.name,
            state=JobState.QUEUED,
            spec=stored(spec),
            dataset_id=spec.dataset,
            reference_id=spec.reference,
            learner_id=spec.learner.model if spec.learner else None,
            history_id=history_id,
            next_seq=0,
            num_batches=spec.num_batches,
            log_digest=start_digest,
            next_walk=stored(WalkPosition()),
            token=0,
            lease_until_ms=at_ms,
            crashes=0,
            seen_trained_seq=0,
            seen_live=False,
            counters=stored({}),
            end_logged=False,
            created_ms=at_ms,
            updated_ms=at_ms,
        )
    )
    connection.execute(insert(log_digests).values(job_id=job_id, count=0, log_digest=start_digest))
    changed(connection, QUEUE)
    add_event(connection, job_id, "submitted", f"{spec.num_batches} batches of {spec.selection.b} rows were asked for")
    return job_row(connection, job_id)


def job_row(connection: Connection, job_id: str, *, lock: bool = False) -> RowMapping:
    """Return a job's row, locked for the rest of the transaction where the database has row locks."""
    query = select(jobs).where(jobs.c.id == job_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"a job must exist; got {job_id!r} (job). List them with GET /v1/jobs.")
    return row


def update_job(connection: Connection, job_id: str, **values: Any) -> None:
    """Set columns of a job and the time of its last change."""
    changed(connection, job_id)
    if "state" in values:
        changed(connection, QUEUE)
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(updated_ms=now_ms(connection), **values))


def end_job(
    connection: Connection, job_id: str, state: JobState, *, code: str | None = None, message: str | None = None
) -> None:
    """Put a job into one of its ends."""
    assert state.is_terminal
    update_job(
        connection, job_id, state=state, phase=None, waits_for=None, error_code=code, error=message, end_logged=False
    )
    add_event(connection, job_id, state.lower(), message or f"the job is {state}", {"code": code} if code else {})


def request_cancel(connection: Connection, job_id: str) -> RowMapping:
    """Cancel a job: at once when nobody runs it, else CANCELLING until its driver is gone. Repeating is allowed."""
    row = job_row(connection, job_id, lock=True)
    if row["state"] in (JobState.SUCCEEDED, JobState.FAILED):
        raise WrongState(
            f"only a job that has not ended can be cancelled; it is {row['state']} (job {job_id}). "
            "There is nothing to stop."
        )
    if row["state"] == JobState.QUEUED:
        end_job(connection, job_id, JobState.CANCELLED)
    elif row["state"] == JobState.RUNNING:
        update_job(connection, job_id, state=JobState.CANCELLING)
        add_event(connection, job_id, "cancel_requested", "the driver was asked to stop")
    return job_row(connection, job_id)


def retry(connection: Connection, job_id: str) -> RowMapping:
    """Put a FAILED job back into the queue; it goes on at next_seq of the same history."""
    row = job_row(connection, job_id, lock=True)
    if row["state"] != JobState.FAILED:
        raise WrongState(f"only a FAILED job can be retried; it is {row['state']} (job {job_id}). Submit a new one.")
    update_job(connection, job_id, state=JobState.QUEUED, crashes=0, error_code=None, error=None, waits_for=None)
    add_event(connection, job_id, "retried", f"goes on at seq {row['next_seq']}", {"next_seq": row["next_seq"]})
    return job_row(connection, job_id)
