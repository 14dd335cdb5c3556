"""Small scored batches that are worked out by hand: score shards, index files and shards really in store and root."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Any

import pyarrow as pa
from PIL import Image
from sqlalchemy import insert

from superbatch.formats.embedding_shard import INDEX_KIND
from superbatch.formats.parquet_file import render_parquet
from superbatch.formats.score_shard import write_score_shard
from superbatch_server.schemas.attempts import CheckpointRef, SegmentStats
from superbatch_server.service.catalog.attempts import record_schedule
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.catalog.tables import cache
from superbatch_server.storage.index_files import INDEX_SCHEMA
from superbatch_server.storage.index_spec import IndexSpec, index_cache_key
from tests.service.api.world import World
from tests.service.catalog.builders import FINGERPRINT, claim_it, job, schedule_row, segment_commit, sha

ROWS_PER_SHARD = 50
INFINITE = float("inf")
HOSTILE = '</script><img src=x onerror=alert(1)>\u202egnirts\x1b[31m "quoted"'


@dataclass(frozen=True)
class Candidates:
    """Columns of one super-batch."""

    index: list[int]
    learner: list[float | None]
    reference: list[float | None]
    score: list[float | None]
    perturbed: list[float | None]
    round: list[int]


MIXED = Candidates(
    index=[0, 1, 2, 3, 54, 55],
    learner=[5.0, 4.0, 3.0, 2.0, 6.0, None],
    reference=[1.0, 3.0, 3.0, 4.0, 2.0, None],
    score=[4.0, 0.5, 0.0, -2.0, 3.0, None],
    perturbed=[5.0, 2.0, 0.5, -INFINITE, 3.5, None],
    round=[1, -1, -1, -1, 2, -1],
)
"""Learnability 4, 1, 0, -2, 4 and dropped: mean 1.4, of the two chosen 4. Scores: mean 1.1, of the chosen 3.5.

Row 3 was excluded, row 55 dropped. Noise: 1, 1.5, 0.5, none, 0.5.
"""

UNIFORM = Candidates(
    index=[10, 11, 12, 13],
    learner=[None] * 4,
    reference=[None] * 4,
    score=[None] * 4,
    perturbed=[None] * 4,
    round=[1, -1, 1, -1],
)

EASY = Candidates(
    index=[0, 1, 2, 3],
    learner=[None] * 4,
    reference=[1.0, 3.0, 2.0, 4.0],
    score=[-1.0, -3.0, -2.0, -4.0],
    perturbed=[-1.0, -3.0, -2.0, -4.0],
    round=[1, -1, 1, -1],
)


def shard_bytes(found: Candidates, seq: int, *, fingerprint: str = FINGERPRINT) -> bytes:
    rows = pa.table(
        {
            "batch_seq": pa.array([seq] * len(found.index), pa.int64()),
            "dataset_index": pa.array(found.index, pa.int64()),
            "uid": pa.array([uid_of(index) for index in found.index], pa.binary(16)),
            "loss_learner": pa.array(found.learner, pa.float32()),
            "loss_reference": pa.array(found.reference, pa.float32()),
            "score": pa.array(found.score, pa.float32()),
            "perturbed_score": pa.array(found.perturbed, pa.float32()),
            "round": pa.array(found.round, pa.int16()),
        }
    )
    return write_score_shard(rows, fingerprint=bytes.fromhex(fingerprint))


def uid_of(dataset_index: int) -> bytes:
    return sha256(f"row {dataset_index}".encode()).digest()[:16]


def png(colour: str = "red", size: tuple[int, int] = (32, 24), *, mode: str = "RGB", kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new(mode, size, colour).save(out, format=kind)
    return out.getvalue()


class ScoredWorld:
    """A service with one job whose batches are published with their scores."""

    def __init__(self, world: World, **spec: Any) -> None:
        self.world = world
        selection = {"method": "joint", "criterion": "learnability", "b": 2, "N": 2, "f": 0.5} | spec.pop(
            "selection", {}
        )
        fields = {"reference": world.model(), "learner": {"model": world.model(), "updates": "none"}, "num_batches": 90}
        self.job_id = world.submit(world.spec(**(fields | spec | {"selection": selection})))
        self.attempt = claim_it(world.engine)
        self.captions: dict[int, str | None] = {}
        self.pictures: dict[int, bytes] = {}
        self.verdicts: dict[int, str] = {}
        self.not_in_index: set[int] = set()
        """Rows whose caption is in the shard only."""

    def publish(
        self,
        found: Candidates,
        *,
        rule: str = "fixed",
        checkpoint: CheckpointRef | None = None,
        stats: tuple[float, float] | None = None,
        data: bytes | None = None,
        **row: Any,
    ) -> str:
        """Publish the next batch; `stats` are the means of the chosen and of all. Return the key of its scores."""
        at = job(self.world.engine, self.job_id)
        seq, B = at["next_seq"], len(found.index)
        key = f"jobs/{self.job_id}/{at['history_id']}/scores/{seq:012d}-0-{sha(str(seq))[:16]}.parquet"
        self.world.store.put_new(key, shard_bytes(found, seq) if data is None else data)
        decided = {"rule": rule, "checkpoint": checkpoint, "method": "joint", "B": B} | row
        chosen, everyone = ([], []) if stats is None else ([stats[0]], [stats[1]])
        commit = segment_commit(
            at,
            seq,
            B=[B],
            score_keys=[key],
            rule=rule,
            checkpoint=checkpoint,
            generation=checkpoint.generation if checkpoint else 0,
            stats=SegmentStats(
                per_source={},
                learnability_batch=chosen,
                learnability_super_batch=everyone,
                score_s=0.0,
                select_s=0.0,
                commit_s=0.0,
            ),
        )
        with write(self.world.engine) as connection:
            record_schedule(connection, self.attempt, schedule_row(seq, **decided))
            commit_segment(connection, self.attempt, commit)
        return key

    def index(self) -> None:
        """Write both shards with their pictures and captions, and the index files that describe them."""
        for shard_id in range(2):
            start = ROWS_PER_SHARD * shard_id
            content, columns = b"", {name: [] for name in INDEX_SCHEMA.names}  # type: ignore[var-annotated]
            for row in range(start, start + ROWS_PER_SHARD):
                picture, caption = self.pictures.get(row, png()), self.captions.get(row, f"caption {row}")
                text = (caption or "").encode()
                values = {
                    "uid": uid_of(row),
                    "a_sha256": sha256(picture).digest(),
                    "key": f"{row:06d}",
                    "sample_offset": len(content),
                    "sample_length": len(picture) + len(text),
                    "a_offset": len(content),
                    "a_length": len(picture),
                    "b_offset": len(content) + len(picture),
                    "b_length": len(text),
                    "caption": None if row in self.not_in_index else caption,
                    "width": 1,
                    "height": 1,
                    "verdict": self.verdicts.get(row, "ok"),
                }
                content += picture + text
                for name, value in values.items():
                    columns[name].append(value)
            self.world.put_file(f"pool-{shard_id:06d}.tar", content)
            self._put_index(shard_id, columns)

    def _put_index(self, shard_id: int, columns: dict[str, list[Any]]) -> None:
        table = pa.table(columns, schema=INDEX_SCHEMA)
        data = render_parquet([table], INDEX_SCHEMA, file_kind=INDEX_KIND, metadata={})
        key = f"cache/index/{shard_id}.parquet"
        self.world.store.put_new(key, data)
        with write(self.world.engine) as connection:
            connection.execute(
                insert(cache).values(
                    cache_key=index_cache_key(sha(f"shard {shard_id}"), IndexSpec()),
                    kind="index",
                    object_key=key,
                    bytes=len(data),
                    sha256=sha256(data).hexdigest(),
                    rows=ROWS_PER_SHARD,
                    quarantined="{}",
                    created_ms=now_ms(connection),
                )
            )

    def page(self, path: str, *, status: int = 200) -> str:
        """Return a page of the job as HTML."""
        answer = self.world.client.get(f"/jobs/{self.job_id}/{path}")
        assert answer.status_code == status, answer.text
        return answer.text

    def batch(self, seq: int = 0, **query: Any) -> dict[str, Any]:
        """Return a batch as the API has it."""
        return self.world.get(f"/v1/jobs/{self.job_id}/batches/{seq}", params=query)


def checkpoint(generation: int, trained_seq: int) -> CheckpointRef:
    return CheckpointRef(
        id=f"checkpoint_{generation:016x}", sha256=sha(str(generation)), trained_seq=trained_seq, generation=generation
    )
