"""Bytes kept and read: by hand for a small run, and the bytes of a row against what the formats write."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from superbatch.formats.batch_list import write_batch_list
from superbatch.formats.batch_rows import batch_rows
from superbatch.formats.score_shard import write_score_shard
from superbatch.formats.tar import iter_samples
from superbatch.selection.cost.steps import EASY_REFERENCE, FLEXI_JEST, JEST, JEST_ONLINE, JEST_REUSED, UNIFORM
from superbatch.selection.cost.storage import (
    INDEX_BYTES_PER_ROW,
    LIST_BYTES_PER_ROW,
    SCORE_BYTES_PER_CANDIDATE,
    STORED_BYTES_PER_NUMBER,
    step_reads,
    storage,
)
from superbatch_server.workers.embed import ShardEmbeddings, render_embeddings
from superbatch_server.workers.index import IndexSpec, IndexTable, raw_rows
from tests.superbatch.selection.cost.made import workload

SAMPLE = Path(__file__).parents[4] / "examples" / "sample" / "data"
FINGERPRINT = bytes(32)


def test_a_service_stores_embeddings_index_lists_and_scores() -> None:
    found = storage(JEST, workload())
    assert found.reference_embeddings_bytes == 1000 * 2 * 4 * 2
    assert found.index_bytes == 1000 * 100
    assert found.batch_lists_bytes == 40 * 10 * 57
    assert found.score_shards_bytes == 40 * 50 * 32
    assert found.total_bytes == 16_000 + 100_000 + 22_800 + 64_000


def test_what_is_not_needed_is_not_stored() -> None:
    work = workload()
    assert storage(UNIFORM, work).total_bytes == 0
    assert storage(JEST_ONLINE, work).reference_embeddings_bytes == 0
    inline = storage(JEST_REUSED, work)
    assert (inline.batch_lists_bytes, inline.score_shards_bytes) == (0, 0)
    assert inline.reference_embeddings_bytes == storage(FLEXI_JEST, work).reference_embeddings_bytes > 0


def test_a_step_reads_its_candidates_and_its_batch() -> None:
    """B = 50 in blocks of 50 // 16 = 3 rows: 17 of them, and the chosen 10 lie in 10 of them at most."""
    work = workload()
    assert work.block_rows == 3
    found = step_reads(JEST, work)
    assert (found.scoring_rows, found.scoring_bytes, found.scoring_requests) == (50, 5000.0, 17)
    assert (found.training_rows, found.training_bytes, found.training_requests) == (10, 1000.0, 10)
    assert found.embedding_bytes == 50 * 2 * (8 * 4 + 4 * 2)


def test_without_a_learner_pass_only_the_batch_is_read() -> None:
    found = step_reads(EASY_REFERENCE, workload())
    assert (found.scoring_rows, found.training_rows) == (0, 10)
    assert found.embedding_bytes == 50 * 2 * 4 * 2


def test_a_trainer_that_scores_has_its_batch_already() -> None:
    found = step_reads(JEST_REUSED, workload())
    assert (found.scoring_rows, found.training_rows, found.training_requests) == (50, 0, 0)


def test_an_online_reference_moves_as_it_is_computed() -> None:
    assert step_reads(JEST_ONLINE, workload()).embedding_bytes == 50 * 2 * (8 + 4) * 4


def test_a_plain_loader_reads_whole_blocks() -> None:
    found = step_reads(UNIFORM, workload())
    assert (found.training_requests, found.embedding_bytes) == (4, 0)


def test_rows_far_apart_are_read_one_by_one() -> None:
    """Blocks of 256 rows hold 51 chosen each; between two of them lie R - 1 = 4 rows, joined up to 512 KiB."""
    near = workload(b=4096, rows=100_000, N=16, example_bytes=131_072.0)
    far = workload(b=4096, rows=100_000, N=16, example_bytes=131_073.0)
    assert near.block_rows == 256
    assert step_reads(JEST, near).training_requests == 80
    assert step_reads(JEST, far).training_requests == 4096
    assert step_reads(UNIFORM, far).training_requests == 16


def rows_on_the_web(b: int, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """A batch and its score shard as at scale: shards of 10,000 rows, blocks of 256 out of 128 million rows."""
    starts = 256 * rng.choice(500_000, size=5 * b // 256, replace=False)
    index_B = np.sort((starts[:, None] + np.arange(256)).ravel())
    B, index_b = len(index_B), rng.permutation(index_B)[:b]
    length_b, place_b = rng.integers(5_000, 60_000, b), index_b % 10_000
    offset_b = place_b * 25_600
    batch = batch_rows(
        {
            "batch_seq": [7] * b,
            "slot": list(range(b)),
            "uid": [rng.bytes(16) for _ in range(b)],
            "dataset_index": index_b.tolist(),
            "shard_id": (index_b // 10_000).tolist(),
            "sample_index": place_b.tolist(),
            "key": [f"{index:09d}" for index in index_b],
            "sample_offset": offset_b.tolist(),
            "sample_length": (length_b // 512 * 512 + 2048).tolist(),
            "a_offset": (offset_b + 512).tolist(),
            "a_length": length_b.tolist(),
            "b_offset": (offset_b + length_b // 512 * 512 + 1536).tolist(),
            "b_length": rng.integers(20, 150, b).tolist(),
            "variant": [0] * b,
            "chunk": rng.integers(1, 17, b).tolist(),
            **{name: rng.normal(size=b).tolist() for name in ("score", "loss_learner", "loss_reference")},
        }
    )
    floats = ("loss_learner", "loss_reference", "score", "perturbed_score")
    scores = pa.table(
        {
            "batch_seq": pa.array([7] * B),
            "dataset_index": pa.array(index_B),
            "uid": pa.array([rng.bytes(16) for _ in range(B)], pa.binary(16)),
            **{name: pa.array(rng.normal(size=B), pa.float32()) for name in floats},
            "round": pa.array(np.where(rng.random(B) < 0.2, 3, -1).astype(np.int16)),
        }
    )
    return batch, scores


def test_lists_and_score_shards_take_what_the_plan_says() -> None:
    """Within a tenth; measured with pyarrow 26: 56.9 and 31.9 bytes at b = 8,192."""
    batch, scores = rows_on_the_web(8192, np.random.default_rng(0))
    list_bytes = len(write_batch_list([batch], fingerprint=FINGERPRINT)) / len(batch)
    score_bytes = len(write_score_shard(scores, fingerprint=FINGERPRINT)) / len(scores)
    assert list_bytes == pytest.approx(LIST_BYTES_PER_ROW, rel=0.1)
    assert score_bytes == pytest.approx(SCORE_BYTES_PER_CANDIDATE, rel=0.1)


def test_an_index_takes_no_more_than_the_plan_says() -> None:
    """67 bytes with the sample's captions of 10 bytes; the plan leaves room for captions of the web, about 60 bytes."""
    spec = IndexSpec()
    table = IndexTable(spec)
    with (SAMPLE / "pool-emoji-000.tar").open("rb") as file:
        samples = iter_samples(
            file, read=True, suffixes=spec.suffixes, max_member_bytes=spec.max_member_bytes, where="sample"
        )
        for row in raw_rows(samples, spec):
            table.add(row)
    assert INDEX_BYTES_PER_ROW / 2 < len(table.render()) / len(table) < INDEX_BYTES_PER_ROW


def test_embeddings_take_two_bytes_a_number() -> None:
    rng = np.random.default_rng(0)
    towers = [rng.normal(size=(2000, 256)) / 16 for _ in range(2)]
    shard = ShardEmbeddings(*(tower.astype(np.float16) for tower in towers), ["ok"] * 2000, 10.0, -10.0)
    found = len(render_embeddings(shard, encoder="", numerics="", micro_batch=64)) / 2000
    # fp16 of values near 0 compresses a little: the exponent's bits repeat
    assert 0.85 * 2 * 256 * STORED_BYTES_PER_NUMBER < found < 1.02 * 2 * 256 * STORED_BYTES_PER_NUMBER


def test_the_sizes_are_numbers() -> None:
    assert all(math.isfinite(value) for value in vars(step_reads(JEST, workload())).values())
