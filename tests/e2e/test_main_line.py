"""The main job on a small world: a real service, real Ray, a trainer that pushes checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch.log import BatchLog
from tests.e2e.house import running_house
from tests.e2e.jobs import NUM_BATCHES, register
from tests.e2e.sample_world import NUM_SHARDS, QUARANTINED, ROWS_PER_SHARD, World
from tests.e2e.trainer import PUSH_EVERY, Trainer

pytestmark = pytest.mark.slow_ray


def test_a_pushed_learner_gets_every_batch_once_and_its_checkpoints_score_later_ones(
    world: World, tmp_path: Path
) -> None:
    with running_house(tmp_path / "service", world.roots) as house:
        registered = register(house, world)
        job = house.post("/v1/jobs", registered.curate())["id"]
        trainer = Trainer(house, world, job)
        trainer.start()
        trainer.finish()
        house.wait_state(job, "SUCCEEDED")
        stats, lists = house.get(f"/v1/jobs/{job}/stats"), house.lists(job)

    (prefix,) = (tmp_path / "service").glob(f"**/jobs/{job}/*")
    with BatchLog.from_prefix(prefix) as log:  # with the service gone, its files are the same log
        assert log.shard_table().num_rows == NUM_SHARDS * ROWS_PER_SHARD
        assert [batch.rows.column("uid").to_pylist() for batch in log] == trainer.uids
    assert trainer.seqs == list(range(NUM_BATCHES))
    assert all(len(set(uids)) == 16 for uids in trainer.uids), "no uid twice in a batch"
    assert sum(BatchListReader(data).num_batches for data in lists.values()) == NUM_BATCHES
    assert stats["quarantined"] == QUARANTINED
    assert stats["rows"] == NUM_SHARDS * ROWS_PER_SHARD
    assert stats["eligible"] == NUM_SHARDS * ROWS_PER_SHARD - sum(QUARANTINED.values())
    assert stats["loaded"] == 64 * NUM_BATCHES
    assert stats["trained"] == 16 * NUM_BATCHES
    # Which pushed checkpoints are verified before newer ones come depends on the machine; staleness bounds it.
    assert 1 <= stats["generation"] <= NUM_BATCHES // PUSH_EVERY
    assert stats["max_staleness"] < 8
    rules = {segment["rule"] for segment in stats["segments"]}
    assert rules == {"easy_reference", "checkpoint"}
