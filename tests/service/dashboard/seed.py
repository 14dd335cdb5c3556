"""A made-up catalog for the dashboard: one job in every state and phase, numbers that look like a real run."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, update

from superbatch_server.schemas.attempts import (
    CheckpointRef,
    PoolReport,
    SegmentCommit,
    SegmentStats,
    SourceCounts,
    WalkPosition,
)
from superbatch_server.schemas.datasets import DatasetManifest, ShardRef
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.models import FileRef, ModelManifest
from superbatch_server.schemas.trainers import ConsumerReport, ExclusionRequest
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.exclusions import exclude
from superbatch_server.service.catalog.queue import job_row, submit_job
from superbatch_server.service.catalog.revoked import revoke
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import (
    attempts,
    checkpoints,
    consumers,
    dataset_shards,
    datasets,
    jobs,
    models,
    segments,
    supervisors,
)
from superbatch_server.service.catalog.totals import totals_of

SOURCES = {"emoji": (1180, 1.42), "flags": (420, 1.15), "interface-a": (1010, 0.81), "interface-b": (910, 0.62)}
"""Rows in the pool, and roughly the lift that the made-up selection gives."""

INDEXING = {"shards_total": 12, "shards_done": 7, "rows_quarantined": 3}
B_ROWS, B_CANDIDATES = 128, 640
DATASET, REFERENCE, LEARNER = "dataset_00000000000000a1", "model_00000000000000b1", "model_00000000000000b2"
HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(2)> {{ 7 * 7 }}'


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Made:
    """Ids of the made-up jobs by what they show."""

    jobs: dict[str, str]


def seed(engine: Engine) -> Made:
    with write(engine) as connection:
        _datasets(connection)
        _models(connection)
        beat(connection, ago_s=-3600)
        return Made(_jobs(connection))


def spec(*, name: str = "curate emoji", num_batches: int = 400, method: str = "joint", **selection: Any) -> CurateSpec:
    curated = method != "uniform"
    return CurateSpec.model_validate(
        {
            "name": name,
            "dataset": DATASET,
            "reference": REFERENCE if curated else None,
            "learner": {"model": LEARNER, "updates": "pushed"} if curated else None,
            "selection": {"b": B_ROWS, "f": 0.8, "N": 16, "method": method, **selection},
            "draw": {"block_rows": 40},
            "refresh": {"max_staleness": 60},
            "num_batches": num_batches,
            "seed": 7,
        }
    )


def beat(connection: Connection, *, supervisor_id: str = "supervisor_00000000000000c1", ago_s: float = 0) -> None:
    """Let a supervisor be seen; one seen in the future is live however long the tests take."""
    at_ms = now_ms(connection) - round(1000 * ago_s)
    connection.execute(
        insert(supervisors).values(
            id=supervisor_id,
            host="bench-2",
            pid=4242,
            runner="local",
            max_running=2,
            num_running=1,
            started_ms=at_ms,
            seen_ms=at_ms,
        )
    )


def _datasets(connection: Connection) -> None:
    rows = sum(count for count, _ in SOURCES.values())
    shards = tuple(ShardRef(key=f"pool-{i:02}.tar", source=name) for i, name in enumerate(SOURCES))
    for dataset_id, name, state, error in (
        (DATASET, "pool", "READY", None),
        ("dataset_00000000000000a2", "clean", "VERIFYING", None),
        ("dataset_00000000000000a3", HOSTILE[:100], "INVALID", f"a shard must be a tar; {HOSTILE} is none."),
    ):
        is_ready = state == "READY"
        connection.execute(
            insert(datasets).values(
                id=dataset_id,
                name=name,
                state=state,
                manifest=stored(DatasetManifest(name=name, root="sample", shards=list(shards))),
                fingerprint=digest(name) if is_ready else None,
                rows=rows if is_ready else None,
                error_code="not_a_tar" if error else None,
                error=error,
                created_ms=now_ms(connection),
            )
        )
    for i, (source, (count, _)) in enumerate(SOURCES.items()):
        connection.execute(
            insert(dataset_shards).values(
                dataset_id=DATASET,
                shard_id=i,
                key=f"pool-{i:02}.tar",
                source=source,
                rows=count,
                start_index=sum(rows for rows, _ in list(SOURCES.values())[:i]),
                fingerprint=digest(f"pool-{i:02}.tar"),
            )
        )


def _models(connection: Connection) -> None:
    for model_id, name, roles in (
        (REFERENCE, "reference", ("weights", "config", "tokenizer")),
        (LEARNER, "learner", ("config", "tokenizer")),
    ):
        files = [FileRef(role=role, root="models", key=f"{name}/{role}", sha256=digest(role)) for role in roles]
        connection.execute(
            insert(models).values(
                id=model_id,
                name=name,
                state="READY",
                manifest=stored(ModelManifest(name=name, family="tiny", files=files)),
                digest=digest(name),
                created_ms=now_ms(connection),
            )
        )


def _jobs(connection: Connection) -> dict[str, str]:
    made: dict[str, str] = {}
    for i, (what, state, phase, published) in enumerate(
        (
            ("done", "SUCCEEDED", None, 400),
            ("queued", "QUEUED", None, 0),
            ("waiting", "QUEUED", "waiting_for_trainer", 120),
            ("cancelled", "CANCELLED", None, 33),
            ("cancelling", "CANCELLING", "composing", 33),
            ("failed", "FAILED", None, 87),
            ("indexing", "RUNNING", "indexing", 0),
            ("hostile", "FAILED", None, 0),
            ("running", "RUNNING", "composing", 263),
            ("uniform", "SUCCEEDED", None, 400),
        )
    ):
        name = {"hostile": HOSTILE, "uniform": "uniform, same pool"}.get(what, f"curate emoji, {what}")
        rules = {"loss": "softmax", "repetition_cap": 3, "max_cosine": 0.95} if what == "done" else {}
        job_spec = spec(name=name, method="uniform" if what == "uniform" else "joint", **rules)
        job_id = made[what] = f"job_{i:016x}"
        submit_job(connection, job_spec, job_id=job_id)
        set_job(
            connection,
            job_id,
            state=state,
            phase=phase,
            next_seq=published,
            token=1 if state != "QUEUED" or phase else 0,
            waits_for="trainer" if phase == "waiting_for_trainer" else None,
            counters=stored(
                {"shards_total": 12, "shards_done": 7, "rows_quarantined": 3} if what == "indexing" else {}
            ),
            created_ms=now_ms(connection) + 60_000 * i - 3_600_000,
        )
        if published:
            _indexed(connection, job_id)
            publish(connection, job_id, published, pushes=job_spec.pushes)
        if job_spec.pushes and published:
            _trainer(connection, job_id, published)
        _attempt(connection, job_id, state)
    _failures(connection, made)
    _withdrawals(connection, made["running"])
    return made


def set_job(connection: Connection, job_id: str, **values: object) -> None:
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def _indexed(connection: Connection, job_id: str) -> None:
    pool = PoolReport(
        eligible_digest=digest("eligible"),
        rows=3520,
        eligible=3509,
        per_source={
            name: {"rows": rows, "eligible": rows - 3, "quarantined": 3, "filtered": 0}
            for name, (rows, _) in SOURCES.items()
        },
        quarantined={"undecodable_image": 5, "empty_caption": 4, "image_too_large": 2},
    )
    set_job(connection, job_id, pool=stored(pool), eligible_digest=pool.eligible_digest)
    profile = {"torch": "2.13.0", "cpu": "avx512", "dtype": "float32", "threads": 1, "micro_batch": 64}
    set_job(connection, job_id, numerics=stored(profile), numerics_digest=digest("profile"))
    add_event(connection, job_id, "indexed", "3509 of 3520 rows are eligible")


def publish(connection: Connection, job_id: str, num_batches: int, *, pushes: bool, first: int = 0) -> None:
    """Publish made-up batches of one segment each: a refresh every 37 batches, which arrives 9 batches late."""
    chance = random.Random(3)
    totals = totals_of(connection, job_row(connection, job_id))
    assert totals.next_seq == first
    for seq in range(first, first + num_batches):
        generation = max(0, (seq - 9) // 37) if pushes else 0
        trained_seq = 37 * generation
        used = CheckpointRef(
            id=f"checkpoint_{generation:016x}",
            sha256=digest(str(generation)),
            trained_seq=trained_seq,
            generation=generation,
        )
        gain = 0.9 * math.exp(-seq / 150)
        commit = SegmentCommit(
            first_seq=seq,
            num_batches=1,
            f=[0.8],
            B=[B_CANDIDATES],
            row_attempts=[0],
            list_key=f"lists/{seq}.parquet",
            list_name=f"{seq}.parquet",
            bytes=9000,
            sha256=digest(f"list {seq}"),
            score_keys=[],
            batch_digests=[digest(f"batch {seq}")],
            generation=generation,
            rule=("checkpoint" if generation else "easy_reference") if pushes else "no_learner",
            checkpoint=used if pushes and generation else None,
            next_walk=WalkPosition(),
            stats=SegmentStats(
                per_source=_counts(chance),
                learnability_batch=[gain + 0.35 + 0.05 * chance.gauss(0, 1)] if pushes else [],
                learnability_super_batch=[0.5 * gain - 0.1 + 0.04 * chance.gauss(0, 1)] if pushes else [],
                score_s=0.31,
                select_s=0.042,
                commit_s=0.011,
            ),
        )
        connection.execute(
            insert(segments).values(
                job_id=job_id,
                first_seq=seq,
                num_batches=1,
                token=1,
                list_name=commit.list_name,
                list_key=commit.list_key,
                bytes=commit.bytes,
                sha256=commit.sha256,
                generation=commit.generation,
                commit=stored(commit),
                log_digest_start=digest(f"log {seq}"),
                log_digest_end=digest(f"log {seq + 1}"),
                committed_ms=now_ms(connection) - 400 * (first + num_batches - 1 - seq),
            )
        )
        totals = totals.plus(commit)
    set_job(connection, job_id, totals=stored(totals))


def _counts(chance: random.Random) -> dict[str, SourceCounts]:
    total = sum(rows for rows, _ in SOURCES.values())
    weights = {name: rows * lift for name, (rows, lift) in SOURCES.items()}
    kept = {
        name: round(B_ROWS * weight / sum(weights.values()) + chance.gauss(0, 2)) for name, weight in weights.items()
    }
    kept["emoji"] += B_ROWS - sum(kept.values())
    return {
        name: SourceCounts(candidates=round(B_CANDIDATES * rows / total), selected=kept[name])
        for name, (rows, _) in SOURCES.items()
    }


def _trainer(connection: Connection, job_id: str, published: int) -> None:
    trained = max(0, published - 41)
    report = ConsumerReport(
        role="learner",
        world_size=1,
        read_ahead=2,
        checkpoint_every=37,
        delivered_seq=trained + 2,
        trained_seq=trained,
        durable_seq=trained // 37 * 37,
        log_digest=digest("log"),
    )
    at_ms = now_ms(connection)
    connection.execute(
        insert(consumers).values(
            job_id=job_id,
            name="trainer",
            role="learner",
            report=stored(report),
            trained_seq=trained,
            durable_seq=report.durable_seq,
            expires_ms=at_ms + 3_600_000,
            updated_ms=at_ms,
        )
    )
    newest = trained // 37
    for ordinal in range(newest + 2):
        state = {newest: "ACTIVE", newest + 1: "REJECTED"}.get(ordinal, "SUPERSEDED")
        file = FileRef(role="weights", root="runs", key=f"step-{ordinal}.safetensors", sha256=digest(str(ordinal)))
        connection.execute(
            insert(checkpoints).values(
                id=f"checkpoint_{job_id[-8:]}{ordinal:08x}",
                job_id=job_id,
                ordinal=ordinal,
                trained_seq=37 * ordinal,
                files=f"[{stored(file)}]",
                sha256=file.sha256,
                state=state,
                generation=None if state == "REJECTED" else ordinal,
                reason="row 17 of the fixed rows gave NaN" if state == "REJECTED" else None,
                created_ms=at_ms,
            )
        )


def _attempt(connection: Connection, job_id: str, state: str) -> None:
    at_ms = now_ms(connection)
    if state == "QUEUED":
        return
    is_over = state in ("SUCCEEDED", "FAILED", "CANCELLED")
    connection.execute(
        insert(attempts).values(
            job_id=job_id,
            token=1,
            supervisor_id="supervisor-1",
            host="bench-2",
            pid=4711,
            log_path="/tmp/driver.log",
            started_ms=at_ms - 134_000,
            ended_ms=at_ms if is_over else None,
            outcome=state.lower() if is_over else None,
        )
    )
    add_event(connection, job_id, "attempt_began", "attempt 1 begins at seq 0")
    if is_over:
        add_event(connection, job_id, state.lower(), f"the job is {state}")


def _withdrawals(connection: Connection, job_id: str) -> None:
    """Rows were excluded, two neighbouring batches hold one, and the trainer skipped a batch of a hostile name."""
    request = ExclusionRequest(uids=[digest(str(i))[:32] for i in range(1200)], reason="withdrawn by the owner")
    exclude(connection, job_id, request)
    set_job(connection, job_id, is_searching=False)
    said = "holds an excluded row: withdrawn by the owner"
    revoke(connection, job_id, {40: said, 41: said, 217: f"skipped by trainer: {HOSTILE}"})


def _failures(connection: Connection, made: dict[str, str]) -> None:
    set_job(
        connection,
        made["failed"],
        error_code="shard_changed",
        error="a shard must be the one that was registered; got another etag (root sample, key pool-03.tar). "
        "Restore the file, or register the new one as another data set.",
    )
    set_job(connection, made["hostile"], error_code=("x" + HOSTILE)[:64], error=HOSTILE)
    add_event(connection, made["hostile"], HOSTILE[:60], HOSTILE)
