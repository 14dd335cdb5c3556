"""webdataset's own reader on our tars: rank r takes slot range r of batch k at step k, for every number of workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from superbatch.conformance.sample_job import SampleJob
from superbatch.formats.slices import slot_range
from superbatch.formats.uid import uid_of_bytes
from superbatch.webdataset.layout import tar_pattern
from tests.superbatch.webdataset.conftest import Export

pytestmark = pytest.mark.filterwarnings("ignore")  # what webdataset and torch's workers warn of is not ours


def uid_of(sample: dict[str, Any]) -> bytes:
    return uid_of_bytes(sample["png"], sample["txt"])


def pipeline(urls: object, batch_size: int) -> wds.DataPipeline:
    """The pipeline of webdataset's documentation for many nodes and workers, without a shuffle."""
    return wds.DataPipeline(
        wds.SimpleShardList(urls),
        wds.split_by_node,
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.map(uid_of),
        wds.batched(batch_size, collation_fn=list, partial=False),
    )


def steps_of_rank(
    urls: object, batch_size: int, *, rank: int, world_size: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> list[list[bytes]]:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    loader = wds.WebLoader(pipeline(urls, batch_size), batch_size=None, shuffle=False, num_workers=workers)
    return [list(batch) for batch in loader]


@pytest.mark.parametrize("ranks_and_workers", [(1, 0), (2, 0), (2, 2), (3, 3), (4, 0)])
def test_stock_reader_keeps_every_joint_batch_whole_and_in_order(
    export: Export, job: SampleJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks_and_workers: tuple[int, int]
) -> None:
    world_size, workers = ranks_and_workers
    folder = export(tmp_path, world_size=world_size)
    urls = f"{folder}/{tar_pattern(range(24 * world_size))}"

    for rank in range(world_size):
        slots = slot_range(job.b, rank, world_size=world_size)
        wanted = [list(batch[slots.start : slots.stop]) for batch in job.batches]
        found = steps_of_rank(
            urls, len(slots), rank=rank, world_size=world_size, workers=workers, monkeypatch=monkeypatch
        )
        assert found == wanted, f"rank {rank} of {world_size}, {workers} workers"


def test_micro_steps_come_one_after_the_other(
    export: Export, job: SampleJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(tmp_path, world_size=2, accumulation=3)
    urls = f"{folder}/{tar_pattern(range(24 * 6))}"

    for rank in range(2):
        found = steps_of_rank(urls, 2, rank=rank, world_size=2, workers=0, monkeypatch=monkeypatch)
        slots = slot_range(job.b, rank, world_size=2)
        steps = [[uid for part in found[first : first + 3] for uid in part] for first in range(0, len(found), 3)]
        assert steps == [list(batch[slots.start : slots.stop]) for batch in job.batches]


def test_one_tar_per_joint_batch_would_lose_every_one(
    export: Export, job: SampleJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(tmp_path, world_size=1)  # whole batches in a tar, read by two ranks
    urls = f"{folder}/{tar_pattern(range(24))}"
    ranks = [
        steps_of_rank(urls, job.b // 2, rank=rank, world_size=2, workers=0, monkeypatch=monkeypatch) for rank in (0, 1)
    ]
    joint = [set(first) | set(second) for first, second in zip(*ranks, strict=True)]
    assert sum(batch in [set(wanted) for wanted in job.batches] for batch in joint) == 0


def test_metadata_reach_the_reader(export: Export, job: SampleJob, tmp_path: Path) -> None:
    folder = export(tmp_path, world_size=1, with_metadata=True)

    def first_samples() -> Iterator[dict[str, Any]]:
        yield from wds.WebDataset(str(folder / "00000002.tar"), shardshuffle=False)

    found = [json.loads(sample["json"]) for sample in first_samples()]
    assert [(each["seq"], each["slot"], each["uid"]) for each in found] == [
        (2, slot, uid.hex()) for slot, uid in enumerate(job.batches[2])
    ]
