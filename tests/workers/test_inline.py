"""A trainer that selects by itself, from the embeddings that the service cached, finds the batches of the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.embedding_shard import TABLE_NAME, EmbeddingTable
from superbatch.formats.errors import DigestMismatch, InvalidInput
from superbatch.formats.score_shard import read_score_shard
from superbatch.inline import DualEmbeddings, MissingEmbeddings, ReferenceCache, select_batch, select_flexi_batch
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.index import read_index
from superbatch_server.workers.lists import log_prefix
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings

from .fakes import FakeService, attempt, bundle_of, spec_of
from .world import NUM_SHARDS, QUARANTINED, ROWS_PER_SHARD, World

NUM_ROWS = NUM_SHARDS * ROWS_PER_SHARD


class Recorder(InProcessExecutor):
    """Keeps what the service's learner made of each super-batch: what a trainer would have on its device."""

    seen: list[RowEmbeddings]

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        found = super().embed_rows(files, rows, micro_batch=micro_batch)
        if len(rows) == 20:  # a super-batch, not the rows that try a checkpoint
            Recorder.seen.append(found)
        return found


def run_job(world: World, **selection: object) -> FakeService:
    Recorder.seen = []
    service = FakeService(spec_of(selection=selection, num_batches=4))
    assert attempt(world, service, make_executor=Recorder) == "published"
    return service


def cache_of(world: World, service: FakeService, folder: Path) -> ReferenceCache:
    bundle = bundle_of(world, service)
    return ReferenceCache.from_store(
        str(world.folder / "store"), job=bundle.job_id, history_id=bundle.history_id, folder=folder
    )


def contents(world: World, service: FakeService) -> np.ndarray:
    """The first 16 bytes of the picture's digest, by dataset_index."""
    table = EmbeddingTable.parse(
        (world.folder / "store" / log_prefix(bundle_of(world, service)) / TABLE_NAME).read_bytes()
    )
    indexes = [read_index((world.folder / "store" / shard.index.key).read_bytes()) for shard in table.shards]
    digests = [digest for index in indexes for digest in index.column("a_sha256").to_pylist()]
    return np.stack([np.frombuffer(digest[:16], dtype=np.uint8) for digest in digests])


@pytest.mark.parametrize(
    "policy",
    [{}, {"method": "independent", "sampling": "top_k"}, {"loss": "softmax", "max_cosine": 0.99}, {"gain": 3.0}],
)
def test_inline_selection_is_the_services_selection(world: World, tmp_path: Path, policy: dict[str, object]) -> None:
    service = run_job(world, **policy)
    cache = cache_of(world, service, tmp_path / "cache")
    content = contents(world, service)
    for seq, commit in enumerate(service.commits):
        batch = BatchListReader(world.folder / "store" / commit.list_key).read(0)
        candidates = read_score_shard(world.folder / "store" / commit.score_keys[0]).rows
        uids, index = candidates.column("uid").to_pylist(), candidates.column("dataset_index").to_numpy()
        found = Recorder.seen[seq]
        towers = [torch.from_numpy(tower).requires_grad_() for tower in (found.image, found.text)]
        chosen = select_batch(
            DualEmbeddings(*towers, found.logit_scale, found.logit_bias),
            cache.take(uids),
            b=8,
            seed=11,
            seq=seq,
            uids=uids,
            dataset_index=index,
            content=content[index],
            **{"num_chunks": 4, **policy},  # type: ignore[arg-type]
        )
        assert [uids[i] for i in chosen] == batch.column("uid").to_pylist(), "the same rows in the same slots"
        by_index = cache.take_indices(index)
        assert torch.equal(by_index.image, cache.take(uids).image)
        assert torch.equal(by_index.text, cache.take(uids).text)


def test_an_inline_flexi_batch_is_the_services(world: World, tmp_path: Path) -> None:
    variants = [
        {"resolution": 8, "patch": 4, "flops_fraction": 1.0, "share": 0.5},
        {"resolution": 8, "patch": 8, "flops_fraction": 0.4, "share": 0.25},
        {"resolution": 4, "flops_fraction": 0.1, "share": 0.25},
    ]
    service = run_job(world, variants=variants)
    cache = cache_of(world, service, tmp_path / "cache")
    for seq, commit in enumerate(service.commits):
        batch = BatchListReader(world.folder / "store" / commit.list_key).read(0)
        candidates = read_score_shard(world.folder / "store" / commit.score_keys[0]).rows
        uids, index = candidates.column("uid").to_pylist(), candidates.column("dataset_index").to_numpy()
        found = Recorder.seen[seq]
        flexi = select_flexi_batch(
            DualEmbeddings(
                torch.from_numpy(found.image), torch.from_numpy(found.text), found.logit_scale, found.logit_bias
            ),
            cache.take(uids),
            shares=(0.5, 0.25, 0.25),
            b=8,
            seed=11,
            seq=seq,
            uids=uids,
            dataset_index=index,
            content=contents(world, service)[index],
            num_chunks=4,
        )
        assert [uids[i] for i in flexi.positions] == batch.column("uid").to_pylist()
        assert flexi.variant.tolist() == batch.column("variant").to_pylist()
        assert sorted(flexi.variant[:4].tolist()) == sorted(flexi.variant[4:].tolist()) == [0, 0, 1, 2]


def test_the_cache_holds_every_row_that_has_an_embedding_and_names_the_others(world: World, tmp_path: Path) -> None:
    service = run_job(world)
    cache = cache_of(world, service, tmp_path / "cache")
    assert len(cache) == NUM_ROWS - sum(QUARANTINED.values())
    with pytest.raises(MissingEmbeddings, match="lacks 2 of 4: row 3, row 23") as raised:
        cache.take_indices([2, 3, 23, 4])  # row 3 of shard 0 and row 0 of shard 1 are broken
    assert raised.value.rows == [1, 2]


def test_a_cache_is_fetched_once_and_is_not_taken_for_that_of_another_job(world: World, tmp_path: Path) -> None:
    service = run_job(world)
    first = cache_of(world, service, tmp_path / "cache")
    before = (tmp_path / "cache" / "image.f16").stat().st_mtime_ns
    assert cache_of(world, service, tmp_path / "cache").source == first.source
    assert (tmp_path / "cache" / "image.f16").stat().st_mtime_ns == before
    table = world.folder / "store" / log_prefix(bundle_of(world, service)) / TABLE_NAME
    table.write_bytes(table.read_bytes().replace(b'"history_id":"hist"', b'"history_id":"hisu"'))
    with pytest.raises(InvalidInput, match="must hold the embeddings of this job"):
        cache_of(world, service, tmp_path / "cache")


def test_a_damaged_object_of_the_store_is_refused_and_leaves_no_cache(world: World, tmp_path: Path) -> None:
    service = run_job(world)
    victim = next((world.folder / "store" / "cache" / "embedding").rglob("*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DigestMismatch, match="cache/embedding"):
        cache_of(world, service, tmp_path / "cache")
    assert list(tmp_path.glob("cache*")) == []


def test_before_the_pass_is_over_there_is_no_table(world: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="written when its embed pass is over"):
        cache_of(world, FakeService(spec_of()), tmp_path / "cache")


def test_a_job_without_a_reference_has_no_table(world: World) -> None:
    spec = spec_of(reference=None, selection={"criterion": "hard_learner"}, num_batches=1)
    service = FakeService(spec)
    attempt(world, service)
    assert list((world.folder / "store").rglob(TABLE_NAME)) == []


def test_every_attempt_writes_the_same_table(world: World) -> None:
    service = run_job(world)
    path = world.folder / "store" / log_prefix(bundle_of(world, service)) / TABLE_NAME
    before = path.read_bytes()
    path.unlink()
    attempt(world, service, token=2)
    assert path.read_bytes() == before
    table = EmbeddingTable.parse(before)
    assert [shard.start_index for shard in table.shards] == [ROWS_PER_SHARD * i for i in range(NUM_SHARDS)]
