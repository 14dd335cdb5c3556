"""Batches in which rows are shown at two resolutions: each variant its own transform, each half apart."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pyarrow as pa
import pytest
import torch

from superbatch.formats.manifest import Manifest, Variant
from superbatch.formats.shards import ShardTable
from superbatch.log import BatchLog
from superbatch.reading import Example
from superbatch.torch import CuratedLoader
from tests.superbatch.formats.sample_batches import a_batch, uid_at
from tests.superbatch.log.fake_service import JOB, TOKEN, FakeService

VARIANTS = [0, 1, 1, 0, 1, 0, 0, 1]  # stratified: two of each in every aligned half


class TwoVariants(FakeService):
    """Publishes batches of 8 rows, half of them at half the resolution."""

    def manifest(self, after: int) -> Manifest:
        found = super().manifest(after)
        variants = (Variant(resolution=8, patch=4, flops_fraction=1.0), Variant(4, 4, 0.25))
        return replace(found, policy=replace(found.policy, b=8, variants=variants))


class NamesRows:
    """A reader that reads nothing."""

    def read_rows(self, rows: pa.RecordBatch, shard_table: ShardTable) -> list[Example]:
        return [
            Example(row["uid"], row["dataset_index"], row["slot"], row["variant"], b"", b"") for row in rows.to_pylist()
        ]


def at_full(example: Example) -> dict[str, object]:
    return {"pixels": torch.zeros(8, 8), "slot": example.slot}


def at_half(example: Example) -> dict[str, object]:
    return {"pixels": torch.zeros(4, 4), "slot": example.slot}


def loader_over(variants: list[int], **options: object) -> CuratedLoader:
    service = TwoVariants()
    service.publish(a_batch(0, 8, variant=variants))
    service.end = "complete"
    client = httpx.Client(transport=httpx.MockTransport(service.answer))

    def open_log(*, state: object, read_ahead: int) -> BatchLog:
        return BatchLog("http://127.0.0.1:1", JOB, token=TOKEN, client=client, read_ahead=read_ahead)

    return CuratedLoader(open_log, (at_full, at_half), reader=lambda roots: NamesRows(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_gets_both_halves_of_its_slots(rank: int) -> None:
    loader = loader_over(VARIANTS, rank=rank, world_size=2, split_variants=True)
    (batch,) = loader
    full, half = batch["variants"]  # type: ignore[misc]
    own = range(4 * rank, 4 * rank + 4)
    assert full["pixels"].shape == (2, 8, 8)
    assert half["pixels"].shape == (2, 4, 4)
    assert full["slot"].tolist() == [slot for slot in own if VARIANTS[slot] == 0]
    assert half["slot"].tolist() == [slot for slot in own if VARIANTS[slot] == 1]
    assert batch["superbatch"].uids == tuple(uid_at(0, slot) for slot in own)  # type: ignore[attr-defined]
    loader.trained(batch)
    assert loader.trained_seq == 1
    loader.close()


def test_a_variant_without_rows_is_an_empty_part() -> None:
    (batch,) = loader_over([0] * 8, rank=0, world_size=1, split_variants=True)
    assert batch["variants"][1] == {}  # type: ignore[index]
