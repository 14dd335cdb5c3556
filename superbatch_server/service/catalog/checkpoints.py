"""Pushed checkpoints of a learner, and which of them scores the next batch.

RECEIVED -> VERIFYING -> ACTIVE -> SUPERSEDED; REJECTED by a verdict; ORPHANED by a rewind behind it. Of the verified
ones on the branch the newest (most batches trained, then pushed last) is ACTIVE. Every activation begins a generation,
also when a rejection or a rewind brings an older checkpoint back.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, RowMapping, func, insert, select, update

from superbatch_server.schemas.attempts import CheckpointCandidate, CheckpointVerdict, RefreshState
from superbatch_server.schemas.errors import InvalidRequest, NotFound, SeqBeyondLog, WrongJob, WrongState
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.models import FileRef
from superbatch_server.schemas.trainers import Checkpoint, CheckpointPush, CheckpointState
from superbatch_server.schemas.uploads import UPLOADS_ROOT
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.engine import changed, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.stored import stored_all
from superbatch_server.service.catalog.tables import checkpoints, consumers
from superbatch_server.service.catalog.waiting import learner_is_live
from superbatch_server.service.catalog.wakeups import QUEUE

_FILES = TypeAdapter(list[FileRef])
_UNVERIFIED = (CheckpointState.RECEIVED, CheckpointState.VERIFYING)
_VERIFIED = (CheckpointState.ACTIVE, CheckpointState.SUPERSEDED)


def require_pushed_learner(connection: Connection, job_id: str) -> RowMapping:
    """Return the job's row, or raise when it takes no checkpoints at all."""
    job = job_row(connection, job_id)
    if not CurateSpec.model_validate_json(job["spec"]).pushes:
        raise WrongState(
            f"checkpoints go to a job whose learner is pushed; this one's is not (job {job_id}, learner.updates). "
            "Submit a job with learner.updates = 'pushed'."
        )
    return job


def require_pushable(connection: Connection, job_id: str, push: CheckpointPush) -> None:
    """Raise when the job takes no such checkpoint, whatever is in its file."""
    job = require_pushed_learner(connection, job_id)
    if push.trained_seq > job["next_seq"]:
        raise SeqBeyondLog(
            f"trained_seq must not exceed the published batches; got {push.trained_seq}, next_seq = {job['next_seq']} "
            f"(job {job_id}). Push the state that belongs to this job."
        )
    file = push.files[0]
    if file.root == UPLOADS_ROOT and not file.key.startswith(f"{job_id}/"):
        raise WrongJob(
            f"an upload belongs to the job it was made for; got {file.key} (job {job_id}). Upload the file to this job."
        )
    for row in connection.execute(select(checkpoints).where(checkpoints.c.sha256 == file.sha256)).mappings():
        if row["job_id"] != job_id and file in _FILES.validate_json(row["files"]):
            raise WrongJob(
                f"a checkpoint belongs to one job; got {file.root}/{file.key}, which is checkpoint {row['id']} of job "
                f"{row['job_id']} (job {job_id}). Push the file that this job's learner wrote."
            )


def receive(connection: Connection, job_id: str, push: CheckpointPush) -> Checkpoint:
    """Add a checkpoint whose file was checked, and return it; the same one pushed again is returned as it is."""
    job_row(connection, job_id, lock=True)
    require_pushable(connection, job_id, push)
    rows = _rows(connection, job_id)
    for row in rows:
        is_same = row["sha256"] == push.files[0].sha256 and row["trained_seq"] == push.trained_seq
        if is_same and row["state"] != CheckpointState.ORPHANED:
            return _checkpoint(row)
    checkpoint_id = f"checkpoint_{secrets.token_hex(8)}"
    connection.execute(
        insert(checkpoints).values(
            id=checkpoint_id,
            job_id=job_id,
            ordinal=max((row["ordinal"] for row in rows), default=-1) + 1,
            trained_seq=push.trained_seq,
            files=stored_all(push.files),
            sha256=push.files[0].sha256,
            state=CheckpointState.RECEIVED,
            created_ms=now_ms(connection),
        )
    )
    changed(connection, QUEUE)  # the job may wait for it
    add_event(
        connection,
        job_id,
        "checkpoint_received",
        f"checkpoint of {push.trained_seq} batches",
        {"checkpoint": checkpoint_id, "trained_seq": push.trained_seq},
    )
    return _checkpoint(_row(connection, job_id, checkpoint_id))


@contextmanager
def noting_refusal(engine: Engine, job_id: str, **fields: str | int) -> Iterator[None]:
    """Let what is wrong with a pushed file show in the job's history too, not only in the answer to the push."""
    try:
        yield
    except (InvalidRequest, WrongJob) as error:
        with write(engine) as connection:
            add_event(connection, job_id, "checkpoint_refused", f"{error.code}: {error}", fields)
        raise


def list_checkpoints(connection: Connection, job_id: str) -> list[Checkpoint]:
    """Return a job's checkpoints, the last pushed first."""
    job_row(connection, job_id)
    return [_checkpoint(row) for row in reversed(_rows(connection, job_id))]


def give_verdict(connection: Connection, job_id: str, checkpoint_id: str, verdict: CheckpointVerdict) -> Checkpoint:
    """Note whether a checkpoint embeds the fixed rows, and choose the ACTIVE one anew. Repeating changes nothing."""
    job_row(connection, job_id, lock=True)
    row = _row(connection, job_id, checkpoint_id)
    if verdict.ok and row["state"] in _UNVERIFIED:
        _activate_unless_older(connection, job_id, row)
    elif not verdict.ok and row["state"] in (*_UNVERIFIED, *_VERIFIED):
        reason = verdict.reason or "no reason given"
        _set(connection, checkpoint_id, state=CheckpointState.REJECTED, reason=reason)
        fields = {"checkpoint": checkpoint_id, "trained_seq": row["trained_seq"]}
        add_event(connection, job_id, "checkpoint_rejected", reason, fields)
        _fall_back(connection, job_id)
    return _checkpoint(_row(connection, job_id, checkpoint_id))


def begin_verifying(connection: Connection, job_id: str, checkpoint_id: str) -> None:
    """Note that a driver tries a RECEIVED checkpoint."""
    if _row(connection, job_id, checkpoint_id)["state"] == CheckpointState.RECEIVED:
        _set(connection, checkpoint_id, state=CheckpointState.VERIFYING)


def orphan_beyond(connection: Connection, job_id: str, trained_seq: int) -> None:
    """Take the checkpoints with more batches than `trained_seq` off the branch: the learner went back behind them."""
    beyond = [
        row["id"]
        for row in _rows(connection, job_id)
        if row["trained_seq"] > trained_seq and row["state"] in (*_UNVERIFIED, *_VERIFIED)
    ]
    for checkpoint_id in beyond:
        _set(connection, checkpoint_id, state=CheckpointState.ORPHANED)
    _fall_back(connection, job_id)
    add_event(
        connection,
        job_id,
        "rewound",
        f"the learner went back to {trained_seq} batches; {len(beyond)} checkpoints beyond are orphaned",
        {"trained_seq": trained_seq, "orphaned": len(beyond)},
    )


def refresh_state(connection: Connection, job_id: str) -> RefreshState:
    """Return what credit, the scheduled learner and the draw depend on."""
    learner = (consumers.c.job_id == job_id) & (consumers.c.role == "learner")
    trained_seq = connection.execute(select(func.max(consumers.c.trained_seq)).where(learner)).scalar_one()
    active = _newest_of(connection, job_id, CheckpointState.ACTIVE)
    unverified = _newest_of(connection, job_id, *_UNVERIFIED)
    if unverified and active and _age(unverified) < _age(active):
        unverified = None
    return RefreshState(
        consumer_trained_seq=trained_seq or 0,
        consumer_live=learner_is_live(connection, job_id),
        active=_candidate(active) if active else None,
        unverified=_candidate(unverified) if unverified else None,
        exclusions_digest=job_row(connection, job_id)["exclusions_digest"],
    )


def uploaded_keys(connection: Connection, *, kept: int) -> dict[str, bool]:
    """Return the uploaded files that checkpoints name, each with whether it may still be needed to score.

    Args:
        kept: how many SUPERSEDED checkpoints of a job, the newest ones, may still be brought back.
    """
    query = select(checkpoints).where(checkpoints.c.files.contains(f'"root":"{UPLOADS_ROOT}"', autoescape=True))
    rows = sorted(connection.execute(query).mappings(), key=_age, reverse=True)
    is_needed: dict[str, bool] = {}
    superseded: Counter[str] = Counter()
    for row in rows:
        superseded[row["job_id"]] += row["state"] == CheckpointState.SUPERSEDED
        may_score = row["state"] in (CheckpointState.ACTIVE, *_UNVERIFIED) or (
            row["state"] == CheckpointState.SUPERSEDED and superseded[row["job_id"]] <= kept
        )
        for file in _FILES.validate_json(row["files"]):
            is_needed[file.key] = may_score or is_needed.get(file.key, False)
    return is_needed


def checkpoints_of_upload(connection: Connection, job_id: str, sha256: str) -> list[str]:
    """Return the checkpoints of a job that may still score with an uploaded file; the job's row is locked."""
    job_row(connection, job_id, lock=True)
    may_score = (*_UNVERIFIED, *_VERIFIED)
    rows = (row for row in _rows(connection, job_id) if row["sha256"] == sha256 and row["state"] in may_score)
    return [row["id"] for row in rows if any(file.root == UPLOADS_ROOT for file in _FILES.validate_json(row["files"]))]


def newest_generation(connection: Connection, job_id: str) -> int:
    """Return the learner refreshes so far; 0 before the first checkpoint."""
    query = select(func.max(checkpoints.c.generation)).where(checkpoints.c.job_id == job_id)
    return connection.execute(query).scalar_one() or 0


def _activate_unless_older(connection: Connection, job_id: str, row: RowMapping) -> None:
    active = _active(_rows(connection, job_id))
    if active is not None and _age(row) < _age(active):
        _set(connection, row["id"], state=CheckpointState.SUPERSEDED)
    else:
        _activate(connection, job_id, row)


def _fall_back(connection: Connection, job_id: str) -> None:
    """Where no checkpoint is ACTIVE any more, bring the newest one back that was."""
    rows = _rows(connection, job_id)
    former = [row for row in rows if row["state"] == CheckpointState.SUPERSEDED and row["generation"] is not None]
    newest = _newest(former)
    if _active(rows) is None and newest is not None:
        _activate(connection, job_id, newest)


def _activate(connection: Connection, job_id: str, chosen: RowMapping) -> None:
    rows = _rows(connection, job_id)
    generation = 1 + newest_generation(connection, job_id)
    for row in rows:
        if row["state"] in (CheckpointState.ACTIVE, *_UNVERIFIED) and _age(row) < _age(chosen):
            _set(connection, row["id"], state=CheckpointState.SUPERSEDED)
    _set(connection, chosen["id"], state=CheckpointState.ACTIVE, generation=generation)
    add_event(
        connection,
        job_id,
        "checkpoint_active",
        f"generation {generation}: checkpoint of {chosen['trained_seq']} batches",
        {"checkpoint": chosen["id"], "trained_seq": chosen["trained_seq"], "generation": generation},
    )


def _active(rows: Sequence[RowMapping]) -> RowMapping | None:
    return next((row for row in rows if row["state"] == CheckpointState.ACTIVE), None)


def _newest(rows: Sequence[RowMapping]) -> RowMapping | None:
    return max(rows, key=_age, default=None)


def _age(row: RowMapping) -> tuple[int, int]:
    return row["trained_seq"], row["ordinal"]


def _rows(connection: Connection, job_id: str) -> list[RowMapping]:
    query = select(checkpoints).where(checkpoints.c.job_id == job_id).order_by(checkpoints.c.ordinal)
    return list(connection.execute(query).mappings())


def _newest_of(connection: Connection, job_id: str, *states: CheckpointState) -> RowMapping | None:
    query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.state.in_(states))
    newest = query.order_by(checkpoints.c.trained_seq.desc(), checkpoints.c.ordinal.desc()).limit(1)
    return connection.execute(newest).mappings().one_or_none()


def _row(connection: Connection, job_id: str, checkpoint_id: str) -> RowMapping:
    query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.id == checkpoint_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"a checkpoint must be of the job; got {checkpoint_id!r} (job {job_id}). List the job's.")
    return row


def _set(connection: Connection, checkpoint_id: str, **values: str | int) -> None:
    connection.execute(update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(**values))


def _candidate(row: RowMapping) -> CheckpointCandidate:
    names = ("id", "sha256", "trained_seq", "generation", "state")
    return CheckpointCandidate(**{name: row[name] for name in names}, files=_FILES.validate_json(row["files"]))


def _checkpoint(row: RowMapping) -> Checkpoint:
    return Checkpoint(
        id=row["id"],
        job=row["job_id"],
        trained_seq=row["trained_seq"],
        files=_FILES.validate_json(row["files"]),
        sha256=row["sha256"],
        state=CheckpointState(row["state"]),
        generation=row["generation"],
        reason=row["reason"],
        created_at=rfc3339(row["created_ms"]),
    )
