"""SIGKILL of the driver, the supervisor and the API: what was published is what an undisturbed replay publishes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import NUM_BATCHES, register
from tests.e2e.sample_world import NUM_SHARDS, World
from tests.e2e.trainer import Trainer

pytestmark = [pytest.mark.long, pytest.mark.slow_ray, pytest.mark.timeout(400)]

KILL_COMPOSING_AT = 6
KILL_SUPERVISOR_AT = 10
KILL_API_AT = 16


def test_lists_after_kills_are_the_bytes_of_an_undisturbed_replay(world: World, tmp_path: Path) -> None:
    with running_house(tmp_path / "service", world.roots) as house:
        registered = register(house, world)
        job = house.post("/v1/jobs", registered.curate())["id"]
        _kill_the_driver_in_the_embed_pass(house)

        def disturb(seq: int) -> None:
            if seq == KILL_COMPOSING_AT:
                _running_driver(house).kill()
            if seq == KILL_SUPERVISOR_AT:
                house.child("supervisor").kill()
            if seq == KILL_API_AT:
                house.child("api_process").kill()

        trainer = Trainer(house, world, job, on_seq=disturb)
        trainer.start()
        trainer.finish(limit_s=300)
        disturbed = house.wait_state(job, "SUCCEEDED")
        lists = house.lists(job)
        assert trainer.seqs == list(range(NUM_BATCHES))
        assert disturbed["attempt"] >= 4, "three drivers died"

        _forget_cache(house)
        replay = {**registered.curate()["refresh"], "replay": job}
        undisturbed = house.post("/v1/jobs", registered.curate(refresh=replay))["id"]
        assert house.wait_state(undisturbed, "SUCCEEDED")["attempt"] == 1
        assert house.lists(undisturbed) == lists


def _kill_the_driver_in_the_embed_pass(house: House) -> None:
    """Kill it when some shards are committed, but not all."""

    def committed() -> int:
        return _count(house, "select count(*) from cache where kind = 'embedding'")

    wait_for(committed, what="a shard is embedded")
    _running_driver(house).kill()
    assert committed() < NUM_SHARDS, "the pass was still running"


def _running_driver(house: House):  # type: ignore[no-untyped-def]
    return wait_for(house.driver, what="a driver runs")


def _catalog(house: House) -> sqlite3.Connection:
    return sqlite3.connect(house.data_dir / "catalog.sqlite", timeout=30)


def _count(house: House, query: str) -> int:
    connection = _catalog(house)
    try:
        return int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def _forget_cache(house: House) -> None:
    """Drop the index and embedding cache, so that the replay computes everything itself."""
    connection = _catalog(house)
    with connection:
        connection.execute("delete from cache")
    connection.close()
