"""A catalog as it is after a year: many jobs, and one of them with a very long log. Rows only, no files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update

from superbatch_server.schemas.attempts import ScheduleRow, SegmentCommit, SegmentStats, SourceCounts, WalkPosition
from superbatch_server.schemas.datasets import DatasetManifest, DatasetState, ShardRef
from superbatch_server.schemas.jobs import CurateSpec, DrawSpec, JobState
from superbatch_server.schemas.selection import Method, SelectionSpec
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import create_engine, write
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.catalog.queue import submit_job
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import dataset_shards, datasets, jobs, schedule_rows, segments
from superbatch_server.service.catalog.totals import Totals

DATASET = "dataset_00000000000000aa"
SHARDS, ROWS_PER_SHARD = 64, 100_000
BATCH_ROWS, CANDIDATES = 256, 1280
SOURCES = {"photos": 0.5, "drawings": 0.3, "scans": 0.2}
_CHUNK = 1_000


def fill_catalog(database_url: str, *, num_jobs: int, num_batches: int) -> str:
    """Add ended jobs that have `num_batches` batches together, half of them in one job; return that job's id."""
    engine = create_engine(database_url)
    migrate(engine)
    longest = num_batches // 2
    per_job = (num_batches - longest) // (num_jobs - 1)
    with write(engine) as connection:
        _add_dataset(connection)
        ids = [
            str(submit_job(connection, spec(f"run {number}", per_job if number else longest))["id"])
            for number in range(num_jobs)
        ]
        for number, job_id in enumerate(ids):
            count = per_job if number else longest
            for part in _chunks(job_id, count):
                connection.execute(insert(segments), part[0])
                connection.execute(insert(schedule_rows), part[1])
            state = (JobState.SUCCEEDED, JobState.CANCELLED)[number % 2]
            ended: dict[str, Any] = {"state": state, "next_seq": count, "end_logged": True, "totals": _totals(count)}
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**ended))
    engine.dispose()
    return ids[0]


def spec(name: str, num_batches: int) -> CurateSpec:
    """Return a job on the data set, which no model scores."""
    return CurateSpec(
        name=name,
        dataset=DATASET,
        selection=SelectionSpec(method=Method.UNIFORM, b=BATCH_ROWS, N=1, f=1 - BATCH_ROWS / CANDIDATES),
        draw=DrawSpec(block_rows=64),
        num_batches=max(1, num_batches),
    )


def _add_dataset(connection: Any) -> None:
    if connection.execute(select(datasets.c.id)).first() is not None:
        raise ValueError("a catalog to be filled must be empty; this one has data sets (catalog). Take a new one.")
    shards = [ShardRef(key=f"pool-{number:06d}.tar") for number in range(SHARDS)]
    manifest = DatasetManifest(name="pool", root="pool", shards=shards)
    row = {"id": DATASET, "name": "pool", "state": DatasetState.READY, "manifest": stored(manifest)}
    size = {"fingerprint": _digest("pool"), "rows": SHARDS * ROWS_PER_SHARD, "created_ms": now_ms(connection)}
    connection.execute(insert(datasets).values(**row, **size))
    names = tuple(SOURCES)
    connection.execute(
        insert(dataset_shards),
        [
            {
                "dataset_id": DATASET,
                "shard_id": number,
                "key": shard.key,
                "source": names[number % len(names)],
                "rows": ROWS_PER_SHARD,
                "start_index": number * ROWS_PER_SHARD,
                "fingerprint": _digest(shard.key),
            }
            for number, shard in enumerate(shards)
        ],
    )


def _chunks(job_id: str, num_batches: int) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Yield rows of the tables segments and schedule_rows, some at a time."""
    for start in range(0, num_batches, _CHUNK):
        seqs = range(start, min(start + _CHUNK, num_batches))
        yield (
            [_segment(job_id, seq) for seq in seqs],
            [{"job_id": job_id, "seq": seq, "row_attempt": 0, "body": stored(_row(seq))} for seq in seqs],
        )


def _segment(job_id: str, seq: int) -> dict[str, Any]:
    name = f"{seq:012d}-{seq + 1:012d}-{_digest(str(seq))[:16]}.parquet"
    commit = SegmentCommit(
        first_seq=seq,
        num_batches=1,
        f=[1 - BATCH_ROWS / CANDIDATES],
        B=[CANDIDATES],
        row_attempts=[0],
        list_key=f"jobs/{job_id}/{name}",
        list_name=name,
        bytes=20_000,
        sha256=_digest(name),
        score_keys=[f"jobs/{job_id}/scores/{seq}"],
        batch_digests=[_digest(f"batch {seq}")],
        generation=0,
        rule="no_learner",
        checkpoint=None,
        next_walk=WalkPosition(block=seq + 1),
        stats=SegmentStats(
            per_source=_counts(1),
            learnability_batch=[1 + (seq % 97) / 97],
            learnability_super_batch=[(seq % 89) / 89],
            score_s=0.5,
            select_s=0.2,
            commit_s=0.02,
        ),
    )
    return {
        "job_id": job_id,
        "first_seq": seq,
        "num_batches": 1,
        "token": 1,
        "list_name": name,
        "list_key": commit.list_key,
        "bytes": commit.bytes,
        "sha256": commit.sha256,
        "generation": 0,
        "commit": stored(commit),
        "log_digest_start": _digest(f"log {seq}"),
        "log_digest_end": _digest(f"log {seq + 1}"),
        "committed_ms": 1_700_000_000_000 + 1000 * seq,
    }


def _row(seq: int) -> ScheduleRow:
    return ScheduleRow(
        seq=seq,
        rule="no_learner",
        checkpoint=None,
        method="uniform",
        criterion="learnability",
        f=1 - BATCH_ROWS / CANDIDATES,
        B=CANDIDATES,
        gain=1.0,
        weights=(1.0, 1.0),
        walk=WalkPosition(block=seq),
        micro_batch=64,
    )


def _counts(num_batches: int) -> dict[str, SourceCounts]:
    return {
        name: SourceCounts(
            candidates=int(CANDIDATES * share) * num_batches, selected=int(BATCH_ROWS * share) * num_batches
        )
        for name, share in SOURCES.items()
    }


def _totals(num_batches: int) -> str:
    return stored(Totals(next_seq=num_batches, per_source=_counts(num_batches)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def database_url(data_dir: Path) -> str:
    """Return the catalog that a service on this folder opens by default."""
    return f"sqlite:///{data_dir}/catalog.sqlite"
