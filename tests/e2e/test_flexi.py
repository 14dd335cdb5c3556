"""A Flexi job through a real service and the trainer's log; then the same batches selected inline from its store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from superbatch.formats.batch_rows import split_by_variant
from superbatch.formats.errors import ServiceError
from superbatch.formats.score_shard import read_score_shard
from superbatch.inline import ReferenceCache, select_flexi_batch
from superbatch.log import BatchLog
from tests.e2e.house import running_house
from tests.e2e.jobs import register
from tests.e2e.sample_world import World

pytestmark = [pytest.mark.slow_ray, pytest.mark.long]

VARIANTS = [
    {"resolution": 32, "patch": 4, "flops_fraction": 1.0, "share": 0.5},
    {"resolution": 32, "patch": 8, "flops_fraction": 0.28, "share": 0.25},
    {"resolution": 16, "flops_fraction": 0.1, "share": 0.25},
]
NUM_BATCHES, B_SMALL, SEED = 4, 16, 5


def test_every_rank_gets_the_same_mix_and_a_trainer_that_selects_by_itself_the_same_batches(
    world: World, tmp_path: Path
) -> None:
    selection = {"criterion": "easy_reference", "b": B_SMALL, "f": 0.75, "N": 4, "variants": VARIANTS}
    with running_house(tmp_path / "service", world.roots) as house:
        body = register(house, world).curate(learner=None, selection=selection, num_batches=NUM_BATCHES, seed=SEED)
        job = house.post("/v1/jobs", body)["id"]
        house.wait_state(job, "SUCCEEDED")
        token = (house.data_dir / "token").read_text().strip()
        with BatchLog(house.url, job, token=token) as log:
            state = log.state()
            with pytest.raises(
                ServiceError, match=r"got \[8, 4, 4\] rows of b = 16, 2 \* 4 = 8, remainders \[0, 4, 4\]"
            ):
                log.register("trainer", world_size=2, accumulation=4)
            log.register("trainer", world_size=2, accumulation=2)
            assert [variant.to_json() for variant in log.manifest().policy.variants] == [
                {name: variant.get(name) for name in ("resolution", "patch", "flops_fraction")} for variant in VARIANTS
            ]
            batches = list(log)
        assert house.get(f"/v1/jobs/{job}/stats")["trained_flops_fraction"] == pytest.approx(0.5 + 0.07 + 0.025)
        store = house.data_dir / "store"
        cache = ReferenceCache.from_store(
            str(store), job=job, history_id=state["history_id"], folder=tmp_path / "reference-cache"
        )
        scores = sorted((store / "jobs" / job / state["history_id"] / "scores").iterdir())
    assert len(batches) == len(scores) == NUM_BATCHES
    for batch, path in zip(batches, scores, strict=True):
        parts = [
            split_by_variant(batch.slice(rank, world_size=2, accumulation=2, micro=micro), num_variants=3)
            for rank in range(2)
            for micro in range(2)
        ]
        assert Counter(tuple(part.num_rows for part in split) for split in parts) == {(2, 1, 1): 4}
        candidates = read_score_shard(path).rows
        uids = candidates.column("uid").to_pylist()
        inline = select_flexi_batch(
            None,
            cache.take(uids),
            shares=[float(variant["share"]) for variant in VARIANTS],  # type: ignore[arg-type]
            b=B_SMALL,
            seed=SEED,
            seq=batch.seq,
            uids=uids,
            dataset_index=candidates.column("dataset_index").to_numpy(),
            criterion="easy_reference",
            num_chunks=4,
        )
        assert [uids[position] for position in inline.positions] == batch.rows.column("uid").to_pylist()
        assert inline.variant.tolist() == batch.rows.column("variant").to_pylist()
