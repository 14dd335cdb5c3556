"""What an attempt may do with its lease: renew it, give it back, end the job. Every call passes the fence first."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.attempts import Finish, Heartbeat, HeartbeatAnswer, Release
from superbatch_server.schemas.errors import LeaseLost, NotFound, WrongState
from superbatch_server.schemas.jobs import JobState, Phase
from superbatch_server.service.catalog.claims import end_attempt, secret_digest
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import end_job, job_row, update_job
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import jobs
from superbatch_server.service.catalog.waiting import learner_is_live

_HELD = (JobState.RUNNING, JobState.CANCELLING)
_PHASE_OF_WAIT = {
    "trainer": Phase.WAITING_FOR_TRAINER,
    "checkpoint": Phase.WAITING_FOR_CHECKPOINT,
    "room": Phase.WAITING_FOR_ROOM,
}


@dataclass(frozen=True)
class Attempt:
    """Who a driver says it is."""

    job_id: str
    token: int
    secret: str = field(repr=False)


def fence(connection: Connection, attempt: Attempt, *, lock: bool = True) -> RowMapping:
    """Return the job's row, locked to write, if the attempt holds the job; otherwise raise LeaseLost.

    A lease that ran out but that nobody claimed is still held.
    """
    row = _identified(connection, attempt, lock=lock)
    if row["state"] not in _HELD:
        raise _lost(attempt, f"the job is {row['state']}")
    return row


def is_known_secret(connection: Connection, secret: str) -> bool:
    """Claim that some job's newest attempt has this secret."""
    query = select(jobs.c.id).where(jobs.c.secret_sha256 == secret_digest(secret)).limit(1)
    return connection.execute(query).first() is not None


def heartbeat(connection: Connection, attempt: Attempt, beat: Heartbeat, *, lease_ms: int) -> HeartbeatAnswer:
    """Renew the lease from now on, note phase and counters, and say whether to stop."""
    row = fence(connection, attempt)
    until_ms = now_ms(connection) + lease_ms
    update_job(
        connection, attempt.job_id, lease_until_ms=until_ms, phase=beat.phase, counters=stored(dict(beat.counters))
    )
    return HeartbeatAnswer(lease_s=lease_ms / 1000, cancel=row["state"] == JobState.CANCELLING)


def release(connection: Connection, attempt: Attempt, wait: Release) -> None:
    """Put the job back into the queue until what it waits for moves. Repeating is allowed; a cancelled job ends."""
    row = _identified(connection, attempt)
    if row["state"] == JobState.QUEUED and row["waits_for"] == wait.waits_for:
        return
    if fence(connection, attempt)["state"] == JobState.CANCELLING:
        end_job(connection, attempt.job_id, JobState.CANCELLED)
    else:
        update_job(
            connection,
            attempt.job_id,
            state=JobState.QUEUED,
            phase=_PHASE_OF_WAIT[wait.waits_for],
            waits_for=wait.waits_for,
            seen_trained_seq=wait.seen_trained_seq,
            seen_checkpoint=wait.seen_checkpoint,
            # A learner that came back after the driver looked is news, though its trained_seq is the same.
            seen_live=wait.seen_live and learner_is_live(connection, attempt.job_id),
            lease_until_ms=now_ms(connection),
            crashes=0,
        )
        fields = {"attempt": attempt.token, "waits_for": wait.waits_for}
        message = f"waits for the {wait.waits_for}" + (f": {wait.reason}" if wait.reason else "")
        add_event(connection, attempt.job_id, "released", message[:4000], fields)
    end_attempt(connection, row, "released")


def finish(connection: Connection, attempt: Attempt, end: Finish) -> JobState:
    """End the job as the driver says, and return its state. Repeating is allowed; a cancelled job is never FAILED."""
    row = _identified(connection, attempt)
    if row["state"] == end.outcome:
        return JobState(end.outcome)
    row = fence(connection, attempt)
    if end.outcome == "SUCCEEDED" and row["next_seq"] != row["num_batches"]:
        raise WrongState(
            f"a job has SUCCEEDED when all its batches are published; got {row['next_seq']} of {row['num_batches']} "
            f"(job {attempt.job_id}). Publish the others, or finish with FAILED."
        )
    state = JobState(end.outcome)
    if state == JobState.FAILED and row["state"] == JobState.CANCELLING:
        state = JobState.CANCELLED
    end_job(connection, attempt.job_id, state, code=end.code, message=end.message)
    end_attempt(connection, row, state.lower())
    return state


def _identified(connection: Connection, attempt: Attempt, *, lock: bool = True) -> RowMapping:
    """Return the job's row if the attempt is its newest one and knows its secret."""
    try:
        row = job_row(connection, attempt.job_id, lock=lock)
    except NotFound:
        raise _lost(attempt, "there is no such job") from None
    if row["token"] != attempt.token:
        raise _lost(attempt, f"attempt {row['token']} is the newest")
    if not hmac.compare_digest(row["secret_sha256"] or "", secret_digest(attempt.secret)):
        raise _lost(attempt, "the secret is another attempt's")
    return row


def _lost(attempt: Attempt, reason: str) -> LeaseLost:
    return LeaseLost(
        f"only the attempt that holds a job may speak for it; {reason} "
        f"(job {attempt.job_id}, attempt {attempt.token}). "
        "Stop at once; what was committed is kept."
    )
