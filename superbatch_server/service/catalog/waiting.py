"""What a queued job waits for, and when that has moved.

A driver that had to wait for long released its job with what it had seen last (`Release`). The job is claimable again
only when a learner's progress or a checkpoint differs from that, so that an idle trainer costs no machine. A job that
found a disk full tries again after a pause.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from superbatch_server.schemas.jobs import JobState
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.tables import checkpoints, consumers, jobs

ROOM_PAUSE_MS = 15_000
"""Between two looks at whether a full disk has room again."""

USABLE = (CheckpointState.RECEIVED, CheckpointState.VERIFYING, CheckpointState.ACTIVE)


def is_claimable(at_ms: int) -> ColumnElement[bool]:
    """Claim that a job is queued and has what it waits for, or runs under a lease that ran out."""
    moved = or_(
        jobs.c.waits_for.is_(None),
        and_(jobs.c.waits_for == "trainer", _trainer_moved(at_ms)),
        and_(jobs.c.waits_for == "checkpoint", _checkpoint_moved()),
        and_(jobs.c.waits_for == "room", jobs.c.lease_until_ms <= at_ms - ROOM_PAUSE_MS),
    )
    expired = and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until_ms <= at_ms)
    return or_(and_(jobs.c.state == JobState.QUEUED, moved), expired)


def learner_is_live(connection: Connection, job_id: str) -> bool:
    """Return whether the job's learner reported within its ttl; true while none has registered."""
    expires_ms = connection.execute(
        select(func.max(consumers.c.expires_ms)).where(consumers.c.job_id == job_id, consumers.c.role == "learner")
    ).scalar_one()
    return expires_ms is None or expires_ms > now_ms(connection)


def _trainer_moved(at_ms: int) -> ColumnElement[bool]:
    # A trainer that only came back after its ttl had passed reports the same count, but production may go on.
    moved = or_(consumers.c.trained_seq != jobs.c.seen_trained_seq, jobs.c.seen_live.is_(False))
    return (
        exists(select(consumers.c.name))
        .where(consumers.c.job_id == jobs.c.id, consumers.c.role == "learner", consumers.c.expires_ms > at_ms, moved)
        .correlate(jobs)
    )


def _checkpoint_moved() -> ColumnElement[bool]:
    seen = checkpoints.alias("seen")

    def of_seen(column: ColumnElement[int]) -> ColumnElement[int]:
        query = select(column).where(seen.c.id == jobs.c.seen_checkpoint).correlate(jobs)
        return func.coalesce(query.scalar_subquery(), -1)

    newer = or_(
        checkpoints.c.trained_seq > of_seen(seen.c.trained_seq),
        and_(checkpoints.c.trained_seq == of_seen(seen.c.trained_seq), checkpoints.c.ordinal > of_seen(seen.c.ordinal)),
    )
    rewound = and_(checkpoints.c.id == jobs.c.seen_checkpoint, checkpoints.c.state == CheckpointState.ORPHANED)
    moved = or_(and_(checkpoints.c.state.in_(USABLE), newer), rewound)
    return exists(select(checkpoints.c.id)).where(checkpoints.c.job_id == jobs.c.id, moved).correlate(jobs)
