"""A job whose batches really have score shards, over an indexed data set: only the losses are made up.

Rows have a fixed reference loss; a share of each source carries a wrong caption, which no learner learns. The learner
of generation g has learned for 37 g batches. Letters: B candidates, b chosen, N rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlalchemy import Connection, insert

from superbatch.formats.score_shard import NOT_CHOSEN, write_score_shard
from superbatch_server.schemas.attempts import (
    CheckpointRef,
    PoolReport,
    ScheduleRow,
    SegmentCommit,
    SegmentStats,
    SourceCounts,
    WalkPosition,
)
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import submit_job, update_job
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import schedule_rows, segments
from superbatch_server.storage.store import ArtifactStore
from tests.browser.pool import Indexed
from tests.service.dashboard.seed import LEARNER, REFERENCE, digest

REFRESH, LATE = 37, 9
"""A checkpoint is pushed every so many batches, and scores from so many later on."""
EVERY_MS = 1400
"""Between two batches."""
WRONG = {"emoji": 0.1, "flags": 0.1, "material": 0.3, "line": 0.5}
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Drawn:
    """The candidates of one batch with what they scored."""

    rows: Integers
    learner: Floats | None
    reference: Floats
    score: Floats
    perturbed: Floats
    round_B: npt.NDArray[np.int16]


@dataclass
class Composer:
    """Publishes the batches of one job, seq by seq, on call."""

    connection: Connection
    store: ArtifactStore
    pool: Indexed
    spec: CurateSpec
    job_id: str
    next_seq: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    _walk: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        num_rows = len(self.pool.uids)
        share = np.array([WRONG.get(name, 0.2) for name in self.pool.source_of])
        self._is_wrong = self._rng.random(num_rows) < share
        self._reference = (np.where(self._is_wrong, 3.6, 1.1) + 0.4 * self._rng.standard_normal(num_rows)).clip(0.05)
        self._hardness = self._rng.uniform(0.6, 1.4, num_rows)

    def publish(self, num_batches: int, *, every_ms: int = EVERY_MS) -> None:
        """Publish the next batches; the last of them now, the others `every_ms` apart before it."""
        at_ms = now_ms(self.connection) - every_ms * num_batches
        for _ in range(num_batches):
            at_ms += every_ms
            self._publish_one(at_ms)
        update_job(self.connection, self.job_id, next_seq=self.next_seq)

    def _publish_one(self, at_ms: int) -> None:
        seq, used = self.next_seq, self._checkpoint(self.next_seq)
        drawn = self._scored(used)
        key = f"jobs/{self.job_id}/scores/{seq}.parquet"
        shard = write_score_shard(self._shard(seq, drawn), fingerprint=bytes.fromhex(self.pool.fingerprint))
        self.store.put_new(key, shard)
        self._record(seq, used, len(drawn.rows))
        commit = self._commit(seq, used, drawn, key)
        self.connection.execute(
            insert(segments).values(
                job_id=self.job_id,
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
                committed_ms=at_ms,
            )
        )
        self.next_seq += 1

    def _scored(self, used: CheckpointRef | None) -> Drawn:
        selection = self.spec.selection
        rows = self._draw(round(selection.b / (1 - float(selection.f))))  # type: ignore[arg-type]
        learner = self._learner_loss(rows, used) if used else None
        reference = self._reference[rows].astype(np.float32)
        score = reference * -1 if learner is None else learner - reference
        perturbed = (4 * score + self._rng.gumbel(size=len(score))).astype(np.float32)
        round_B = np.full(len(score), NOT_CHOSEN, dtype=np.int16)
        chosen = np.argsort(-perturbed)[: selection.b]
        for number, places in enumerate(np.array_split(chosen, selection.N), start=1):
            round_B[places] = number
        return Drawn(rows, learner, reference, score, perturbed, round_B)

    def _checkpoint(self, seq: int) -> CheckpointRef | None:
        generation = max(0, (seq - LATE) // REFRESH)
        if not generation:
            return None
        checkpoint_id = f"checkpoint_{self.job_id[-8:]}{generation:08x}"
        trained_seq = REFRESH * generation
        sha256 = digest(str(generation))
        return CheckpointRef(id=checkpoint_id, sha256=sha256, trained_seq=trained_seq, generation=generation)

    def _draw(self, B: int) -> Integers:
        while len(self._walk) < B:
            self._walk += self._rng.permutation(self.pool.eligible).tolist()
        drawn, self._walk = self._walk[:B], self._walk[B:]
        return np.array(drawn, dtype=np.int64)

    def _learner_loss(self, rows: Integers, used: CheckpointRef) -> Floats:
        untrained = 3.4 * self._hardness[rows] * np.exp(-used.trained_seq / 120)
        learned = np.where(self._is_wrong[rows], 4.4 - 0.2 * untrained, 1.3 + untrained)
        return np.asarray(learned + 0.15 * self._rng.standard_normal(len(rows)), dtype=np.float32)

    def _shard(self, seq: int, drawn: Drawn) -> pa.Table:
        num = len(drawn.rows)
        return pa.table(
            {
                "batch_seq": np.full(num, seq),
                "dataset_index": drawn.rows,
                "uid": [self.pool.uids[row] for row in drawn.rows],
                "loss_learner": pa.nulls(num, pa.float32()) if drawn.learner is None else drawn.learner,
                "loss_reference": drawn.reference,
                "score": drawn.score,
                "perturbed_score": drawn.perturbed,
                "round": drawn.round_B,
            }
        )

    def _record(self, seq: int, used: CheckpointRef | None, B: int) -> None:
        row = ScheduleRow.model_validate(
            {
                "seq": seq,
                "rule": "checkpoint" if used else "easy_reference",
                "checkpoint": used,
                "method": "joint",
                "criterion": "learnability" if used else "easy_reference",
                "f": self.spec.selection.f,
                "B": B,
                "gain": 4.0,
                "weights": (1.0, 1.0),
                "walk": WalkPosition(),
                "micro_batch": 64,
            }
        )
        values = {"job_id": self.job_id, "seq": seq, "row_attempt": 0, "body": stored(row)}
        self.connection.execute(insert(schedule_rows).values(**values))

    def _commit(self, seq: int, used: CheckpointRef | None, drawn: Drawn, key: str) -> SegmentCommit:
        chosen = drawn.round_B != NOT_CHOSEN
        return SegmentCommit(
            first_seq=seq,
            num_batches=1,
            f=[self.spec.selection.f],  # type: ignore[list-item]
            B=[len(drawn.rows)],
            row_attempts=[0],
            list_key=f"jobs/{self.job_id}/lists/{seq}.parquet",
            list_name=f"{seq}.parquet",
            bytes=9000,
            sha256=digest(f"list {seq}"),
            score_keys=[key],
            batch_digests=[digest(f"batch {seq}")],
            generation=used.generation if used else 0,
            rule="checkpoint" if used else "easy_reference",
            checkpoint=used,
            next_walk=WalkPosition(),
            stats=SegmentStats(
                per_source=dict(self._counts(drawn.rows, chosen)),
                learnability_batch=[float(drawn.score[chosen].mean())] if used else [],
                learnability_super_batch=[float(drawn.score.mean())] if used else [],
                score_s=0.31,
                select_s=0.042,
                commit_s=0.011,
            ),
        )

    def _counts(self, rows: Integers, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[str, SourceCounts]]:
        names = np.array([self.pool.source_of[row] for row in rows])
        for name in sorted(set(names)):
            of_source = names == name
            yield str(name), SourceCounts(candidates=int(of_source.sum()), selected=int((of_source & chosen).sum()))


def add_job(
    connection: Connection,
    store: ArtifactStore,
    pool: Indexed,
    *,
    job_id: str,
    name: str,
    num_batches: int,
    state: str = "RUNNING",
    **selection: Any,
) -> Composer:
    """Submit a job over the data set and return what publishes its batches."""
    spec = CurateSpec.model_validate(
        {
            "name": name,
            "dataset": pool.id,
            "reference": REFERENCE,
            "learner": {"model": LEARNER, "updates": "pushed"},
            "selection": {"b": 128, "f": 0.8, "N": 16, "method": "joint", **selection},
            "draw": {"block_rows": 40},
            "refresh": {"max_staleness": 60},
            "num_batches": num_batches,
            "seed": 7,
        }
    )
    submit_job(connection, spec, job_id=job_id)
    num_eligible = len(pool.eligible)
    report = PoolReport.model_validate(
        {
            "eligible_digest": digest("eligible"),
            "rows": len(pool.uids),
            "eligible": num_eligible,
            "per_source": {
                source: {"rows": rows, "eligible": eligible, "quarantined": rows - eligible, "filtered": 0}
                for source, (rows, eligible) in pool.rows_by_source.items()
            },
            "quarantined": pool.quarantined,
        }
    )
    num_shards = len(set(pool.source_of))
    counters = {
        "shards_total": num_shards,
        "shards_done": num_shards,
        "rows_indexed": len(pool.uids),
        "rows_quarantined": len(pool.uids) - num_eligible,
        "rows_read": len(pool.uids),
        "pass_read_s": 0.21,
        "pass_decode_s": 1.94,
        "pass_encode_s": 6.4,
        "pass_write_s": 0.33,
    }
    profile = {"torch": "2.13.0", "cpu": "avx512", "dtype": "float32", "threads": 1, "micro_batch": 64}
    update_job(
        connection,
        job_id,
        state=state,
        phase="composing" if state == "RUNNING" else None,
        token=1,
        pool=stored(report),
        eligible_digest=report.eligible_digest,
        counters=stored(counters),
        numerics=stored(profile),
        numerics_digest=digest("profile"),
    )
    add_event(connection, job_id, "indexed", f"{num_eligible:,} of {len(pool.uids):,} rows are eligible")
    return Composer(connection, store, pool, spec, job_id)
