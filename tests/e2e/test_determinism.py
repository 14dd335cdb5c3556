"""Byte-identical lists for 1, 2 and 3 workers and 1 and 2 shards per Ray task over the same data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.house import running_house
from tests.e2e.jobs import register
from tests.e2e.sample_world import World

pytestmark = [pytest.mark.long, pytest.mark.slow_ray, pytest.mark.timeout(600)]


def _lists(world: World, folder: Path, *, num_workers: int, shards_per_task: int) -> dict[str, bytes]:
    settings = {"SUPERBATCH_NUM_WORKERS": str(num_workers), "SUPERBATCH_SHARDS_PER_TASK": str(shards_per_task)}
    with running_house(folder, world.roots, **settings) as house:
        job = house.post("/v1/jobs", register(house, world).static())["id"]
        house.wait_state(job, "SUCCEEDED", limit_s=150)
        return house.lists(job)


def test_lists_do_not_depend_on_workers_or_shards_per_task(world: World, tmp_path: Path) -> None:
    one = _lists(world, tmp_path / "one", num_workers=1, shards_per_task=1)
    three = _lists(world, tmp_path / "three", num_workers=3, shards_per_task=2)
    assert three == one


@pytest.mark.parametrize(("num_workers", "shards_per_task"), [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_lists_are_the_same_for_every_other_pair(
    world: World, tmp_path: Path, num_workers: int, shards_per_task: int
) -> None:
    one = _lists(world, tmp_path / "one", num_workers=1, shards_per_task=1)
    other = _lists(world, tmp_path / "other", num_workers=num_workers, shards_per_task=shards_per_task)
    assert other == one
