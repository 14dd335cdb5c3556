"""Trainers in the catalog: who reads a job's log, how far, and with how much slack. Every report is checked whole.

A job has at most one live learner. Its progress is one line: whoever takes over goes on from it, or says `rewind`.
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from superbatch_server.schemas.errors import (
    CheckpointEveryMissing,
    NotFound,
    OtherHistory,
    SecondLearner,
    SeqBeyondLog,
    StalenessTooSmall,
    VariantsDoNotDivide,
    WentBack,
    WorldSizeDoesNotDivide,
    WrongJob,
)
from superbatch_server.schemas.jobs import CurateSpec, JobState
from superbatch_server.schemas.trainers import Consumer, ConsumerReport
from superbatch_server.service.catalog.checkpoints import orphan_beyond
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.engine import changed
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.revoked import revoke
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import consumers, log_digests
from superbatch_server.service.catalog.wakeups import QUEUE


def report_progress(connection: Connection, job_id: str, name: str, report: ConsumerReport) -> Consumer:
    """Register a trainer or renew its registration; nothing changes unless every check holds."""
    job = job_row(connection, job_id, lock=True)
    where = f"job {job_id}, consumer {name}"
    require_servable(CurateSpec.model_validate_json(job["spec"]), report, where=where)
    _require_own_log(connection, job, report, where=where)
    known = _rows(connection, job_id)
    learner = next((row for row in known if row["role"] == "learner"), None)
    before = next((row for row in known if row["name"] == name), None)
    if report.role == "learner":
        _require_only_learner(connection, learner, name, where=where)
        before = learner or before
    _require_forward(before, report, where=where)
    if report.role == "learner" and learner is not None and learner["name"] != name:
        _forget(connection, job_id, learner["name"])
        add_event(connection, job_id, "learner_replaced", f"{name} goes on for {learner['name']}")
    _save(connection, job_id, name, report, is_new=all(row["name"] != name for row in known))
    _revoke_skipped(connection, job, name, report, where=where)
    if report.rewind and report.role == "learner":
        orphan_beyond(connection, job_id, report.trained_seq)
    if job["state"] == JobState.QUEUED:
        changed(connection, QUEUE)  # it may wait for this
    return get_consumer(connection, job_id, name)


def get_consumer(connection: Connection, job_id: str, name: str) -> Consumer:
    """Return one registered trainer, or raise NotFound."""
    row = next((row for row in _rows(connection, job_id) if row["name"] == name), None)
    if row is None:
        job_row(connection, job_id)
        raise NotFound(f"a consumer must be registered; got {name!r} (job {job_id}). Register it with PUT.")
    return _consumer(row, now_ms(connection))


def list_consumers(connection: Connection, job_id: str) -> list[Consumer]:
    """Return the registered trainers of a job."""
    at_ms = now_ms(connection)
    return [_consumer(row, at_ms) for row in _rows(connection, job_id)]


def require_servable(spec: CurateSpec, report: ConsumerReport, *, where: str) -> None:
    """Raise, with the numbers, when this trainer could never be served by this job.

    A trainer that has trained T batches asks for up to seq T + read_ahead; the list that holds it may reach L - 1
    batches further, and all of it must lie within max_staleness of the newest checkpoint, which under `wait` may be
    checkpoint_every batches old. Where nothing waits for checkpoints the credit alone must reach: as if every batch
    made one.
    """
    parts = report.world_size * report.accumulation
    if spec.selection.b % parts:
        raise WorldSizeDoesNotDivide(
            f"b must be divisible by world_size * accumulation; got b = {spec.selection.b}, {report.world_size} * "
            f"{report.accumulation} = {parts}, remainder {spec.selection.b % parts} ({where}). "
            "Change the world size, the accumulation, or b of the job."
        )
    counts = spec.selection.variant_counts()
    if any(count % parts for count in counts):
        raise VariantsDoNotDivide(
            f"the rows of each variant must be divisible by world_size * accumulation, so that every slice holds the "
            f"same mix; got {list(counts)} rows of b = {spec.selection.b}, {report.world_size} * "
            f"{report.accumulation} = {parts}, remainders {[count % parts for count in counts]} ({where}). "
            "Change the world size, the accumulation, or b and the shares of the job."
        )
    if report.role != "learner" or not spec.pushes:
        return
    if report.checkpoint_every is None:
        raise CheckpointEveryMissing(
            f"the learner of a job with pushed checkpoints must say how often it pushes; got checkpoint_every = null "
            f"({where}). Send the number of batches between two checkpoints."
        )
    waits = spec.refresh.on_stale == "wait" and any(criterion.uses_learner for criterion in spec.criteria())
    every = report.checkpoint_every if waits else 1
    per_list = spec.lists.batches_per_list
    needed = every + report.read_ahead + per_list - 1
    if needed > spec.refresh.max_staleness:
        raise StalenessTooSmall(
            f"checkpoint_every + read_ahead + batches_per_list - 1 must be at most max_staleness; got {every} + "
            f"{report.read_ahead} + {per_list} - 1 = {needed} > {spec.refresh.max_staleness} ({where}). Push "
            f"checkpoints more often, read less ahead, or submit the job with max_staleness of at least {needed}."
        )


def _revoke_skipped(connection: Connection, job: RowMapping, name: str, report: ConsumerReport, *, where: str) -> None:
    """Withdraw what the learner skipped. A reader skips for itself: its report is kept, and nothing is withdrawn."""
    beyond = [skipped.seq for skipped in report.skipped if skipped.seq >= job["next_seq"]]
    if beyond:
        raise SeqBeyondLog(
            f"only a published batch can be skipped; got skipped seq {beyond[0]}, next_seq = {job['next_seq']} "
            f"({where}). Report batches of this job."
        )
    if report.role != "learner":
        return
    reasons = {skipped.seq: f"skipped by {name}: {skipped.reason}" for skipped in report.skipped}
    if num_new := revoke(connection, job["id"], reasons):
        message = f"{name} skipped {num_new} batches: {report.skipped[-1].reason}"
        add_event(connection, job["id"], "batches_skipped", message[:4000], {"consumer": name, "batches": num_new})


def _require_own_log(connection: Connection, job: RowMapping, report: ConsumerReport, *, where: str) -> None:
    if report.delivered_seq > job["next_seq"]:
        raise SeqBeyondLog(
            f"counts must not exceed the published batches; got delivered_seq = {report.delivered_seq}, next_seq = "
            f"{job['next_seq']} ({where}). Start from the state that belongs to this job."
        )
    own = log_digest_at(connection, job["id"], report.trained_seq)
    if own == report.log_digest:
        return
    owners = select(log_digests.c.job_id).where(log_digests.c.log_digest == report.log_digest)
    other = connection.execute(owners.where(log_digests.c.job_id != job["id"]).limit(1)).scalar_one_or_none()
    message = (
        f"log_digest must be this job's after {report.trained_seq} batches, {own}; got {report.log_digest}"
        f"{f', which is of job {other}' if other else ''} ({where}). "
        "Start from the state that belongs to this job and history."
    )
    raise WrongJob(message) if other else OtherHistory(message)


def log_digest_at(connection: Connection, job_id: str, count: int) -> str | None:
    """Return the log digest after `count` batches, None when there are not that many."""
    query = select(log_digests.c.log_digest).where(log_digests.c.job_id == job_id, log_digests.c.count == count)
    return connection.execute(query).scalar_one_or_none()


def _require_only_learner(connection: Connection, learner: RowMapping | None, name: str, *, where: str) -> None:
    if learner is None or learner["name"] == name:
        return
    left_ms = learner["expires_ms"] - now_ms(connection)
    if left_ms > 0:
        raise SecondLearner(
            f"a job has one learner; {learner['name']!r} is registered for another {left_ms / 1000:.1f} s ({where}). "
            "Register as a reader, take the same name, or wait until it has expired."
        )


def _require_forward(before: RowMapping | None, report: ConsumerReport, *, where: str) -> None:
    if before is not None and report.trained_seq < before["trained_seq"] and not report.rewind:
        raise WentBack(
            f"trained_seq must not fall; got {report.trained_seq} after {before['trained_seq']} ({where}). "
            "Send rewind: true after going back to a saved state."
        )


def _rows(connection: Connection, job_id: str) -> list[RowMapping]:
    query = select(consumers).where(consumers.c.job_id == job_id).order_by(consumers.c.name)
    return list(connection.execute(query).mappings())


def _forget(connection: Connection, job_id: str, name: str) -> None:
    connection.execute(delete(consumers).where(consumers.c.job_id == job_id, consumers.c.name == name))


def _save(connection: Connection, job_id: str, name: str, report: ConsumerReport, *, is_new: bool) -> None:
    at_ms = now_ms(connection)
    values = {
        "role": report.role,
        "report": stored(report),
        "trained_seq": report.trained_seq,
        "durable_seq": report.durable_seq,
        "expires_ms": at_ms + round(report.ttl_s * 1000),
        "updated_ms": at_ms,
    }
    if is_new:
        connection.execute(insert(consumers).values(job_id=job_id, name=name, **values))
        add_event(
            connection,
            job_id,
            "consumer_registered",
            f"{report.role} {name} at {report.trained_seq} batches, world size {report.world_size}",
            {"consumer": name, "trained_seq": report.trained_seq},
        )
    else:
        own = (consumers.c.job_id == job_id) & (consumers.c.name == name)
        connection.execute(update(consumers).where(own).values(**values))


def _consumer(row: RowMapping, at_ms: int) -> Consumer:
    return Consumer(
        name=row["name"],
        report=ConsumerReport.model_validate_json(row["report"]),
        expires_at=rfc3339(row["expires_ms"]),
        is_live=row["expires_ms"] > at_ms,
    )
