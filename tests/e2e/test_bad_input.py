"""Damaged data through a real service and real drivers: jobs end with a stable code, a name and the numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.house import House, running_house
from tests.e2e.sample_world import NUM_SHARDS, QUARANTINED, ROWS_PER_SHARD, World

ROWS = NUM_SHARDS * ROWS_PER_SHARD


def _dataset(house: House, *shards: dict[str, Any]) -> str:
    found = house.post("/v1/datasets", {"name": "damaged", "root": "shards", "shards": list(shards)})
    return house.ready(f"/v1/datasets/{found['id']}")


def _submit(house: House, dataset: str, *, b: int = 8, f: float = 0.5) -> str:
    selection = {"method": "uniform", "b": b, "f": f, "N": 1}
    return str(house.post("/v1/jobs", {"dataset": dataset, "selection": selection, "num_batches": 2})["id"])


def _failed(house: House, job: str, code: str, *said: str) -> None:
    found = house.wait_state(job, "FAILED")
    assert found["error_code"] == code, found
    assert ";" in found["error"], "a message is: rule; got value; where; what to do"
    for text in said:
        assert text in found["error"], found["error"]


def test_damaged_data_is_named_and_nothing_else_is_lost(fresh_world: Callable[[], World], tmp_path: Path) -> None:
    world = fresh_world()
    for name in ("changed.tar", "gone.tar"):
        shutil.copy(world.shards / "00.tar", world.shards / name)
    (world.shards / "broken.tar").write_bytes(b"<html>not found</html>" * 100)
    with running_house(tmp_path / "service", world.roots) as house:
        whole = _dataset(house, *({"key": f"{shard:02d}.tar"} for shard in range(NUM_SHARDS)))
        changed = _dataset(house, {"key": "01.tar"}, {"key": "changed.tar"})
        gone = _dataset(house, {"key": "gone.tar"})
        # The rows that a manifest states are believed until the shard is read.
        broken = _dataset(house, {"key": "broken.tar", "rows": ROWS_PER_SHARD})
        (world.shards / "changed.tar").write_bytes((world.shards / "02.tar").read_bytes())
        (world.shards / "gone.tar").unlink()
        jobs = {
            "large": _submit(house, whole, b=ROWS, f=0.0),
            "changed": _submit(house, changed),
            "gone": _submit(house, gone),
            "broken": _submit(house, broken),
            "whole": _submit(house, whole),
        }
        distinct = ROWS - sum(QUARANTINED.values()) - NUM_SHARDS  # each shard holds one picture twice
        _failed(house, jobs["large"], "super_batch_exceeds_pool", f"B = {ROWS}", f"distinct = {distinct}")
        _failed(house, jobs["changed"], "shard_changed", "changed.tar")
        _failed(house, jobs["gone"], "object_missing", "gone.tar", "after 3 tries")
        _failed(house, jobs["broken"], "not_a_tar", "broken.tar", "after 3 tries")
        events = [event["kind"] for event in house.get(f"/v1/jobs/{jobs['broken']}/events")["events"]]
        assert events.count("shard_retried") == 2

        house.wait_state(jobs["whole"], "SUCCEEDED")
        assert len(house.lists(jobs["whole"])) == 2
        assert house.get(f"/v1/jobs/{jobs['whole']}/stats")["quarantined"] == QUARANTINED
