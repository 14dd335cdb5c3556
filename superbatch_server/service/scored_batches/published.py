"""One published batch as the catalog knows it: what decided it, and under which key its scores lie."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, func, select

from superbatch_server.schemas.attempts import CheckpointRef, ScheduleRow, SegmentCommit
from superbatch_server.schemas.errors import BehindRetention, NotFound
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.tables import datasets, schedule_rows, segments


@dataclass(frozen=True)
class ScoredJob:
    """What is read once for all batches of a job. Batches [oldest_seq, next_seq) are kept."""

    id: str
    dataset_id: str
    fingerprint: str
    root: str
    spec: CurateSpec
    oldest_seq: int
    next_seq: int


@dataclass(frozen=True)
class PublishedBatch:
    """One batch: its schedule row, and where its score shard lies (None: the catalog names none)."""

    job: ScoredJob
    seq: int
    row: ScheduleRow
    score_key: str | None

    @property
    def is_scored(self) -> bool:
        """False for a uniform batch, whose candidates have no score."""
        return self.row.method is not Method.UNIFORM

    @property
    def criterion(self) -> Criterion | None:
        """The criterion, None where the method reads none."""
        return self.row.criterion if self.row.method.reads_criterion else None

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The pushed checkpoint that scored it."""
        return self.row.checkpoint

    @property
    def generation(self) -> int:
        """Learner refreshes before it."""
        return self.row.checkpoint.generation if self.row.checkpoint else 0

    @property
    def has_noise(self) -> bool:
        """True where the choice was drawn; False where the best were taken."""
        return self.row.method is Method.UNIFORM or self.job.spec.selection.sampling == "gumbel"


def find_job(connection: Connection, job_id: str) -> ScoredJob:
    """Return what all batches of a job share. Raises: NotFound."""
    job = job_row(connection, job_id)
    spec = CurateSpec.model_validate_json(job["spec"])
    dataset = connection.execute(select(datasets).where(datasets.c.id == spec.dataset)).mappings().one()
    oldest = select(func.min(segments.c.first_seq)).where(segments.c.job_id == job_id)
    oldest_seq = connection.execute(oldest).scalar_one()
    return ScoredJob(
        id=job_id,
        dataset_id=spec.dataset,
        fingerprint=dataset["fingerprint"] or "",
        root=_root_of(dataset),
        spec=spec,
        oldest_seq=job["next_seq"] if oldest_seq is None else oldest_seq,
        next_seq=job["next_seq"],
    )


def find_batch(connection: Connection, job: ScoredJob, seq: int) -> PublishedBatch:
    """Return a published batch.

    Raises:
        NotFound: the batch is not published yet, or the catalog does not know what decided it.
        BehindRetention: it was published and is no longer kept.
    """
    where = f"(job {job.id})"
    if seq >= job.next_seq:
        raise NotFound(
            f"a batch must be published; got seq {seq}, published are those below {job.next_seq} {where}. "
            "Ask for an earlier one, or wait."
        )
    if seq < job.oldest_seq:
        raise BehindRetention(
            f"a batch must still be kept; got seq {seq}, the oldest is {job.oldest_seq} {where}. Ask for a later one.",
            job.oldest_seq,
        )
    commit = _commit_of(connection, job.id, seq)
    place = seq - commit.first_seq
    row = _schedule_row(connection, job.id, seq, commit.row_attempts[place])
    if row is None:
        raise NotFound(
            f"a batch must have its schedule row; none is recorded for seq {seq} {where}. Restore the catalog."
        )
    keys = commit.score_keys
    return PublishedBatch(job, seq, row, keys[place] if len(keys) == commit.num_batches else None)


def spread_seqs(start: int, stop: int, *, at_most: int) -> list[int]:
    """Return at most `at_most` seqs of [start, stop), evenly spaced, the first and the last among them."""
    num = min(at_most, stop - start)
    if num <= 1:
        return list(range(start, stop))[-1:]
    return [start + round(i * (stop - 1 - start) / (num - 1)) for i in range(num)]


def _root_of(dataset: RowMapping) -> str:
    return str(json.loads(dataset["manifest"])["root"])  # only this: a manifest may name 100,000 shards


def _commit_of(connection: Connection, job_id: str, seq: int) -> SegmentCommit:
    of_job = segments.c.job_id == job_id
    query = select(segments.c.commit).where(of_job, segments.c.first_seq <= seq)
    text = connection.execute(query.order_by(segments.c.first_seq.desc()).limit(1)).scalar_one()
    return SegmentCommit.model_validate_json(text)


def _schedule_row(connection: Connection, job_id: str, seq: int, row_attempt: int) -> ScheduleRow | None:
    query = select(schedule_rows.c.body).where(
        schedule_rows.c.job_id == job_id, schedule_rows.c.seq == seq, schedule_rows.c.row_attempt == row_attempt
    )
    body = connection.execute(query).scalar_one_or_none()
    return None if body is None else ScheduleRow.model_validate_json(body)
