"""Small catalogs for tests: a READY data set, a job on it, and the bodies that its attempts send."""

from __future__ import annotations

import atexit
import hashlib
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from superbatch_server.schemas.attempts import CacheEntry, ScheduleRow, SegmentCommit, SegmentStats, WalkPosition
from superbatch_server.schemas.datasets import DatasetManifest, DatasetState, ShardRef
from superbatch_server.schemas.jobs import CurateSpec, DrawSpec
from superbatch_server.schemas.selection import Method, SelectionSpec
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.service.catalog.attempts import record_schedule
from superbatch_server.service.catalog.claims import Claim, claim
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import create_engine, read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.catalog.queue import submit_job
from superbatch_server.service.catalog.segments import job_prefix
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import (
    checkpoints,
    consumers,
    dataset_shards,
    datasets,
    events,
    jobs,
    log_digests,
)

DATASET_ID = "dataset_0123456789abcdef"
FINGERPRINT = "ab" * 32
LEASE_MS = 60_000


def sha(text: str) -> str:
    """Return some sha256."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _template() -> Path:
    """A migrated catalog with one READY data set, made once and copied."""
    folder = Path(mkdtemp(prefix="superbatch-test-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / "catalog.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    migrate(engine)
    with write(engine) as connection:
        add_dataset(connection)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


def new_catalog(folder: Path) -> Engine:
    """Return the engine of a new catalog in `folder`."""
    path = folder / "catalog.sqlite"
    shutil.copyfile(_template(), path)
    return create_engine(f"sqlite:///{path}")


def add_dataset(connection: Connection) -> None:
    """Add a READY data set of two shards, 100 rows."""
    manifest = DatasetManifest(name="pool", root="pool", shards=[ShardRef(key="pool-{000000..000001}.tar")])
    connection.execute(
        insert(datasets).values(
            id=DATASET_ID,
            name="pool",
            state=DatasetState.READY,
            manifest=stored(manifest),
            fingerprint=FINGERPRINT,
            rows=100,
            created_ms=now_ms(connection),
        )
    )
    connection.execute(
        insert(dataset_shards),
        [
            {
                "dataset_id": DATASET_ID,
                "shard_id": shard_id,
                "key": f"pool-{shard_id:06d}.tar",
                "source": "emoji",
                "rows": 50,
                "start_index": 50 * shard_id,
                "fingerprint": sha(f"shard {shard_id}"),
            }
            for shard_id in range(2)
        ],
    )


def spec(**changes: Any) -> CurateSpec:
    """Return a small uniform job."""
    fields: dict[str, Any] = {
        "dataset": DATASET_ID,
        "selection": SelectionSpec(method=Method.UNIFORM, b=4, N=1, f=0.5),
        "draw": DrawSpec(block_rows=1),
        "num_batches": 6,
    }
    return CurateSpec(**(fields | changes))


def submit(engine: Engine, **changes: Any) -> str:
    """Submit a job and return its id."""
    with write(engine) as connection:
        return str(submit_job(connection, spec(**changes))["id"])


def claim_it(
    engine: Engine, *, supervisor_id: str = "supervisor_a", lease_ms: int = LEASE_MS, **limits: int
) -> Attempt:
    """Claim the next job, which must exist."""
    return held(claim_if(engine, supervisor_id=supervisor_id, lease_ms=lease_ms, **limits))


def claim_if(
    engine: Engine, *, supervisor_id: str = "supervisor_a", lease_ms: int = LEASE_MS, **limits: int
) -> Claim | None:
    """Claim the next job if there is one."""
    return claim(engine, supervisor_id, "host", lease_ms, **limits)


def held(claimed: Claim | None) -> Attempt:
    """Return a claim as the driver presents it."""
    assert claimed is not None
    return Attempt(claimed.job_id, claimed.token, claimed.secret)


def job(engine: Engine, job_id: str) -> dict[str, Any]:
    """Return a job's row."""
    with read(engine) as connection:
        return dict(connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one())


def event_kinds(engine: Engine, job_id: str) -> list[str]:
    """Return the kinds of a job's events, in order."""
    with read(engine) as connection:
        query = select(events.c.kind).where(events.c.job_id == job_id).order_by(events.c.id)
        return list(connection.execute(query).scalars())


def log_chain(engine: Engine, job_id: str) -> list[str]:
    """Return the recorded log digests, from count 0 on."""
    with read(engine) as connection:
        query = select(log_digests.c.log_digest).where(log_digests.c.job_id == job_id).order_by(log_digests.c.count)
        return list(connection.execute(query).scalars())


def expire(engine: Engine, job_id: str, *, token: int | None = None) -> None:
    """Let a job's lease run out now, if it is that of `token`."""
    with write(engine) as connection:
        due = update(jobs).where(jobs.c.id == job_id).values(lease_until_ms=now_ms(connection) - 1)
        connection.execute(due if token is None else due.where(jobs.c.token == token))


def schedule_row(seq: int, **changes: Any) -> ScheduleRow:
    """Return the schedule row of a uniform batch."""
    fields: dict[str, Any] = {
        "seq": seq,
        "rule": "no_learner",
        "checkpoint": None,
        "method": "uniform",
        "criterion": "learnability",
        "f": 0.5,
        "B": 8,
        "gain": 1.0,
        "weights": (1.0, 1.0),
        "walk": WalkPosition(block=seq),
        "micro_batch": 8,
    }
    return ScheduleRow(**(fields | changes))


def segment_commit(row: dict[str, Any], first_seq: int, num_batches: int = 1, **changes: Any) -> SegmentCommit:
    """Return the commit of a segment of the job with this row."""
    name = f"{first_seq:012d}-{first_seq + num_batches:012d}-{sha(str(first_seq))[:16]}.parquet"
    fields: dict[str, Any] = {
        "first_seq": first_seq,
        "num_batches": num_batches,
        "f": [0.5] * num_batches,
        "B": [8] * num_batches,
        "row_attempts": [0] * num_batches,
        "list_key": f"{job_prefix(row['id'], row['history_id'])}/lists/{name}",
        "list_name": name,
        "bytes": 1000,
        "sha256": sha(f"list {first_seq}"),
        "score_keys": [],
        "batch_digests": [sha(f"batch {seq}") for seq in range(first_seq, first_seq + num_batches)],
        "generation": 0,
        "rule": "no_learner",
        "checkpoint": None,
        "next_walk": WalkPosition(block=first_seq + num_batches),
        "stats": SegmentStats(
            per_source={},
            learnability_batch=[],
            learnability_super_batch=[],
            score_s=0.0,
            select_s=0.0,
            commit_s=0.0,
        ),
    }
    return SegmentCommit(**(fields | changes))


def record_rows(engine: Engine, attempt: Attempt, first_seq: int, num_batches: int = 1) -> None:
    """Record the schedule rows of a segment."""
    with write(engine) as connection:
        for seq in range(first_seq, first_seq + num_batches):
            record_schedule(connection, attempt, schedule_row(seq))


def cache_entry(name: str, **changes: Any) -> CacheEntry:
    """Return an embedded shard."""
    fields: dict[str, Any] = {
        "cache_key": sha(name),
        "kind": "embedding",
        "object_key": f"cache/{name}.parquet",
        "bytes": 10,
        "sha256": sha(f"bytes of {name}"),
        "rows": 50,
    }
    return CacheEntry(**(fields | changes))


def set_learner(engine: Engine, job_id: str, *, trained_seq: int, ttl_ms: int = 60_000, name: str = "trainer") -> None:
    """Put a learner's progress into the catalog; a negative ttl has passed."""
    with write(engine) as connection:
        at_ms = now_ms(connection)
        connection.execute(consumers.delete().where(consumers.c.job_id == job_id, consumers.c.name == name))
        connection.execute(
            insert(consumers).values(
                job_id=job_id,
                name=name,
                role="learner",
                report="{}",
                trained_seq=trained_seq,
                durable_seq=0,
                expires_ms=at_ms + ttl_ms,
                updated_ms=at_ms,
            )
        )


def set_checkpoint(
    engine: Engine, job_id: str, ordinal: int, state: CheckpointState, *, trained_seq: int | None = None
) -> str:
    """Put a checkpoint into the catalog, or change its state."""
    checkpoint_id = f"checkpoint_{ordinal:016x}"
    with write(engine) as connection:
        connection.execute(checkpoints.delete().where(checkpoints.c.id == checkpoint_id))
        connection.execute(
            insert(checkpoints).values(
                id=checkpoint_id,
                job_id=job_id,
                ordinal=ordinal,
                trained_seq=ordinal if trained_seq is None else trained_seq,
                files="[]",
                sha256=sha(checkpoint_id),
                state=state,
                created_ms=now_ms(connection),
            )
        )
    return checkpoint_id
