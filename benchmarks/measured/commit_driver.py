"""A driver that only publishes: the supervisor starts it in place of the real one, and it times every commit.

What a commit adds to a composed batch: score shard and batch list written with fsync, the fenced HTTP commit, and the
bucket's log file. The batch is made once; nothing is drawn, scored or selected here.
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np
import pyarrow as pa

from superbatch.formats.batch_rows import batch_rows
from superbatch.formats.score_shard import SCORE_SHARD_SCHEMA
from superbatch_server.schemas.attempts import EventReport, Finish, ScheduleRow, SourceCounts, WalkPosition
from superbatch_server.storage.store import open_store
from superbatch_server.workers.client import AttemptClient
from superbatch_server.workers.compose import Composed
from superbatch_server.workers.lists import ListWriter, Timed, put_files

NUM_COMMITS = 20
CANDIDATES = 8192
BATCH_ROWS = 1638
EVENT = "benchmark"


def main() -> None:
    """Publish NUM_COMMITS lists of one batch and report the median."""
    environment = os.environ
    client = AttemptClient(
        environment["SUPERBATCH_SERVICE_URL"],
        job=environment["SUPERBATCH_JOB"],
        token=int(environment["SUPERBATCH_TOKEN"]),
        secret=environment["SUPERBATCH_ATTEMPT_SECRET"],
    )
    bundle = client.bundle()
    store = open_store(bundle.runtime.store_url)
    writer = ListWriter(bundle, client, store)
    taken_ms = []
    for seq in range(bundle.next_seq, bundle.spec.num_batches):
        row = client.record_schedule(schedule_row(seq))
        timed = Timed(row, made_batch(seq), next_walk=WalkPosition(), score_s=0.0, select_s=0.0)
        start = time.perf_counter()
        writer.add(timed)
        taken_ms.append(1000 * (time.perf_counter() - start))
    client.event(EventReport(kind=EVENT, message="commit times", fields={"median_ms": statistics.median(taken_ms)}))
    put_files(store, client.finish(Finish(outcome="SUCCEEDED")).log_files)


def schedule_row(seq: int, *, num_candidates: int = CANDIDATES) -> ScheduleRow:
    """Return the row of a batch that no model scores."""
    return ScheduleRow(
        seq=seq,
        rule="no_learner",
        checkpoint=None,
        method="uniform",
        criterion="learnability",
        f=0.8,
        B=num_candidates,
        gain=1.0,
        weights=(1.0, 1.0),
        walk=WalkPosition(),
        micro_batch=64,
    )


def made_batch(seq: int, *, num_candidates: int = CANDIDATES, num_rows: int = BATCH_ROWS) -> Composed:
    """Return a batch and its score shard with random contents of the right shapes."""
    rng = np.random.default_rng(seq)
    uids = [rng.bytes(16) for _ in range(num_candidates)]
    index = list(range(num_candidates))
    batch = batch_rows(
        {
            "batch_seq": [seq] * num_rows,
            "slot": index[:num_rows],
            "uid": uids[:num_rows],
            "dataset_index": index[:num_rows],
            "shard_id": [0] * num_rows,
            "sample_index": index[:num_rows],
            "key": [f"{i:08d}" for i in index[:num_rows]],
            "variant": [0] * num_rows,
            "score": rng.standard_normal(num_rows).astype(np.float32).tolist(),
        }
    )
    made = {
        "batch_seq": [seq] * num_candidates,
        "dataset_index": index,
        "uid": uids,
        **{name: rng.standard_normal(num_candidates).tolist() for name in SCORE_SHARD_SCHEMA.names[3:-1]},
        SCORE_SHARD_SCHEMA.names[-1]: [-1] * num_candidates,
    }
    scores = pa.Table.from_pydict(made, schema=SCORE_SHARD_SCHEMA)
    counts = {"default": SourceCounts(candidates=num_candidates, selected=num_rows)}
    return Composed(batch=batch, scores=scores, counts=counts, mean_chosen=None, mean_candidates=None)


if __name__ == "__main__":
    main()
