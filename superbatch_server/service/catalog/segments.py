"""Segments of a job's batch log: the guarded commit, and the log files that a reader of the bucket polls.

A commit is one transaction, guarded by the fence and by next_seq, so every batch is published once and seq has no gap.
Its bucket file is written after it, create-if-absent: by the driver, by the next one, or by the supervisor at the end,
always with the same bytes. A FAILED job may be retried and its log go on, so it has no `end.json`.
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, insert, select, update

from superbatch.formats.bucket import LOG_END_NAME, LOG_HEAD_NAME, SHARD_TABLE_NAME, LogEnd, LogHead, LogSegment
from superbatch.formats.canonical import canonical_json
from superbatch.formats.digests import next_log_digest
from superbatch.formats.segments import BEFORE_FIRST_RULES, ScoredWith, Segment
from superbatch_server.schemas.attempts import ScheduleRow, SegmentCommit, SegmentCommitted, SegmentFile
from superbatch_server.schemas.errors import InvalidRequest, WrongSeq
from superbatch_server.schemas.jobs import CurateSpec, JobState
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.datasets import shard_table
from superbatch_server.service.catalog.exclusions import version_of
from superbatch_server.service.catalog.lease import Attempt, fence
from superbatch_server.service.catalog.policy import policy_of
from superbatch_server.service.catalog.queue import job_row, update_job
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import datasets, jobs, log_digests, models, schedule_rows, segments
from superbatch_server.service.catalog.totals import totals_of

NEWEST = 4
"""Log files offered for writing again; a driver writes each file before its next commit, so one would do."""

_END_WORDS = {JobState.SUCCEEDED: "complete", JobState.CANCELLED: "cancelled"}


def job_prefix(job_id: str, history_id: str) -> str:
    """Return the store prefix under which a reader of the bucket finds a job's log and lists."""
    return f"jobs/{job_id}/{history_id}"


def commit_segment(connection: Connection, attempt: Attempt, commit: SegmentCommit) -> SegmentCommitted:
    """Publish the next batches of a job; the same commit again gets the same answer."""
    job = fence(connection, attempt)
    earlier = _segment_row(connection, attempt.job_id, commit.first_seq)
    if earlier is not None and earlier["commit"] == stored(commit):
        return _committed(connection, job, earlier)
    _check_place(job, commit)
    _check_form(job, commit)
    _check_schedule(connection, attempt.job_id, commit)
    searched_version = _searched_version(connection, job, commit)
    chain = _chain(job["log_digest"], commit.batch_digests)
    stop_seq = commit.first_seq + commit.num_batches
    connection.execute(
        insert(segments).values(
            job_id=attempt.job_id,
            first_seq=commit.first_seq,
            num_batches=commit.num_batches,
            token=attempt.token,
            list_name=commit.list_name,
            list_key=commit.list_key,
            bytes=commit.bytes,
            sha256=commit.sha256,
            generation=commit.generation,
            commit=stored(commit),
            log_digest_start=job["log_digest"],
            log_digest_end=chain[-1],
            committed_ms=now_ms(connection),
            searched_version=searched_version,
        )
    )
    counts = range(commit.first_seq + 1, stop_seq + 1)
    connection.execute(
        insert(log_digests),
        [
            {"job_id": attempt.job_id, "count": count, "log_digest": digest}
            for count, digest in zip(counts, chain, strict=True)
        ],
    )
    update_job(
        connection,
        attempt.job_id,
        next_seq=stop_seq,
        next_walk=stored(commit.next_walk),
        log_digest=chain[-1],
        crashes=0,
        is_searching=job["is_searching"] or searched_version < job["exclusions_version"],
        totals=stored(totals_of(connection, job).plus(commit)),
    )
    row = _segment_row(connection, attempt.job_id, commit.first_seq)
    assert row is not None
    return _committed(connection, job, row)


def segment_of(row: RowMapping) -> Segment:
    """Return a committed segment as the formats know it, from its row of the table."""
    commit = SegmentCommit.model_validate_json(row["commit"])
    used = commit.checkpoint
    return Segment(
        first_seq=commit.first_seq,
        num_batches=commit.num_batches,
        f=tuple(commit.f),
        B=tuple(commit.B),
        list_link=f"lists/{commit.list_name}",
        num_bytes=commit.bytes,
        sha256=commit.sha256,
        generation=commit.generation,
        scored_with=ScoredWith(used.id, used.trained_seq, used.sha256) if used else None,
        rule=commit.rule if commit.rule in BEFORE_FIRST_RULES else None,
        log_digest_end=row["log_digest_end"],
    )


def newest_log_files(connection: Connection, job_id: str) -> list[SegmentFile]:
    """Return the files that may be missing from the bucket, to be created if absent.

    They are the newest segments, head and shard table of a log that has few, and `end.json` of one that ended for good.
    """
    job = job_row(connection, job_id)
    query = select(segments).where(segments.c.job_id == job_id).order_by(segments.c.first_seq.desc()).limit(NEWEST)
    rows = connection.execute(query).mappings().all()
    files = [_log_file(connection, job, row) for row in reversed(rows)]
    if len(rows) < NEWEST:
        files = _head_files(connection, job) + files
    if job["state"] in _END_WORDS:
        end = LogEnd(job_id, job["history_id"], _END_WORDS[job["state"]], job["next_seq"], job["log_digest"])
        files.append(_file(job, LOG_END_NAME, end.render()))
    return files


def unlogged_ends(connection: Connection) -> list[str]:
    """Return the jobs that ended for good and whose `end.json` nobody has confirmed yet."""
    ended = jobs.c.state.in_(tuple(_END_WORDS)) & jobs.c.end_logged.is_(False)
    return list(connection.execute(select(jobs.c.id).where(ended).order_by(jobs.c.updated_ms)).scalars())


def mark_end_logged(connection: Connection, job_id: str) -> None:
    """Note that the log files of an ended job exist. Readers see no change, so `updated_ms` stays."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(end_logged=True))


def _check_place(job: RowMapping, commit: SegmentCommit) -> None:
    if commit.first_seq != job["next_seq"] or commit.first_seq + commit.num_batches > job["num_batches"]:
        raise WrongSeq(
            f"a segment must begin at the job's next_seq, {job['next_seq']}, and end by {job['num_batches']}; got "
            f"[{commit.first_seq}, {commit.first_seq + commit.num_batches}) (job {job['id']}). "
            "Read the attempt again and go on from its next_seq."
        )


def _check_form(job: RowMapping, commit: SegmentCommit) -> None:
    lengths = {name: len(getattr(commit, name)) for name in ("f", "B", "row_attempts", "batch_digests")}
    if commit.num_batches < 1 or set(lengths.values()) != {commit.num_batches}:
        raise InvalidRequest(
            f"a segment has one entry per batch in each column; got {lengths} for num_batches {commit.num_batches} "
            f"(job {job['id']}, first_seq {commit.first_seq}). Send one for each batch."
        )
    key = f"{job_prefix(job['id'], job['history_id'])}/lists/{commit.list_name}"
    if commit.list_key != key:
        raise InvalidRequest(
            f"a list must lie where readers of the bucket look for it, {key!r}; got {commit.list_key!r} "
            f"(job {job['id']}, first_seq {commit.first_seq}). Write it there."
        )


def _check_schedule(connection: Connection, job_id: str, commit: SegmentCommit) -> None:
    used = set(enumerate(commit.row_attempts, start=commit.first_seq))
    stop_seq = commit.first_seq + commit.num_batches
    recorded = connection.execute(
        select(schedule_rows.c.seq, schedule_rows.c.row_attempt).where(
            schedule_rows.c.job_id == job_id,
            schedule_rows.c.seq >= commit.first_seq,
            schedule_rows.c.seq < stop_seq,
        )
    )
    missing = sorted(used - {(row.seq, row.row_attempt) for row in recorded})
    if missing:
        raise WrongSeq(
            f"every batch must have its schedule row before it is published; none is recorded for (seq, row_attempt) "
            f"{missing[:3]} (job {job_id}). Record the row before scoring the batch."
        )


def _searched_version(connection: Connection, job: RowMapping, commit: SegmentCommit) -> int:
    """Return which version of the job's exclusions all batches of a segment were composed under; 0 for none."""
    if not job["exclusions_version"]:
        return 0
    table = schedule_rows.c
    stop_seq = commit.first_seq + commit.num_batches
    query = select(table.seq, table.row_attempt, table.body).where(
        table.job_id == job["id"], table.seq >= commit.first_seq, table.seq < stop_seq
    )
    used = set(enumerate(commit.row_attempts, start=commit.first_seq))
    rows = [row.body for row in connection.execute(query) if (row.seq, row.row_attempt) in used]
    digests = {ScheduleRow.model_validate_json(body).exclusions_digest for body in rows}
    return min(version_of(connection, job["id"], digest) for digest in digests)


def _chain(log_digest: str, batch_digests: list[str]) -> list[str]:
    digest, chain = bytes.fromhex(log_digest), []
    for batch in batch_digests:
        digest = next_log_digest(digest, bytes.fromhex(batch))
        chain.append(digest.hex())
    return chain


def _segment_row(connection: Connection, job_id: str, first_seq: int) -> RowMapping | None:
    query = select(segments).where(segments.c.job_id == job_id, segments.c.first_seq == first_seq)
    return connection.execute(query).mappings().one_or_none()


def _committed(connection: Connection, job: RowMapping, row: RowMapping) -> SegmentCommitted:
    return SegmentCommitted(
        next_seq=row["first_seq"] + row["num_batches"],
        log_digest=row["log_digest_end"],
        log_files=[_log_file(connection, job, row)],
    )


def _log_file(connection: Connection, job: RowMapping, row: RowMapping) -> SegmentFile:
    fingerprint = _fingerprint(connection, job)
    log = LogSegment(job["id"], job["history_id"], fingerprint, row["log_digest_start"], segment_of(row))
    return _file(job, log.name, log.render())


def _head_files(connection: Connection, job: RowMapping) -> list[SegmentFile]:
    digest = select(models.c.digest).where(models.c.id == (job["reference_id"] or ""))
    head = LogHead(
        job=job["id"],
        history_id=job["history_id"],
        dataset_fingerprint=_fingerprint(connection, job),
        reference_digest=connection.execute(digest).scalar_one_or_none(),
        policy=policy_of(CurateSpec.model_validate_json(job["spec"])),
    )
    table = shard_table(connection, job["dataset_id"])
    return [
        _file(job, SHARD_TABLE_NAME, canonical_json(table.to_json())),
        _file(job, LOG_HEAD_NAME, head.render()),
    ]


def _fingerprint(connection: Connection, job: RowMapping) -> str:
    query = select(datasets.c.fingerprint).where(datasets.c.id == job["dataset_id"])
    fingerprint: str = connection.execute(query).scalar_one()
    return fingerprint


def _file(job: RowMapping, name: str, text: bytes) -> SegmentFile:
    return SegmentFile(key=f"{job_prefix(job['id'], job['history_id'])}/{name}", text=text.decode())
