"""A store whose disk is full: the job waits, nothing is lost, and it goes on by itself when there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import register
from tests.e2e.sample_world import World
from tests.small_disk import fill, small_disk

pytestmark = [pytest.mark.long, pytest.mark.slow_ray, pytest.mark.timeout(400)]

NUM_BATCHES = 6


def waits_for_room(house: House, job: str) -> bool:
    found = house.get(f"/v1/jobs/{job}")
    return (found["state"], found["phase"]) == ("QUEUED", "waiting_for_room")


@pytest.mark.parametrize("full_from", ["the start", "the first batches"])
def test_a_job_waits_for_room_and_publishes_the_same_lists(world: World, tmp_path: Path, full_from: str) -> None:
    with (
        small_disk(tmp_path / "disk", size="8m") as disk,
        running_house(tmp_path / "service", world.roots, SUPERBATCH_STORE_URL=str(disk / "store")) as house,
    ):
        registered = register(house, world)
        spec = registered.static(num_batches=NUM_BATCHES)
        ballast = fill(disk) if full_from == "the start" else None
        job = house.post("/v1/jobs", spec)["id"]
        if ballast is None:
            wait_for(lambda: house.get(f"/v1/jobs/{job}")["next_seq"] >= 2, what="some batches are published")
            ballast = fill(disk)
        wait_for(lambda: waits_for_room(house, job), what="the job waits for room")
        published = house.lists(job)
        events = house.get(f"/v1/jobs/{job}/events?page_size=500")["events"]
        released = [event for event in events if event["kind"] == "released"]
        assert "No space left on device" in released[-1]["message"]
        ballast.unlink()
        assert house.wait_state(job, "SUCCEEDED")["next_seq"] == NUM_BATCHES
        lists = house.lists(job)
        assert published.items() <= lists.items()
        again = house.post("/v1/jobs", spec)["id"]
        house.wait_state(again, "SUCCEEDED")
        assert list(house.lists(again).values()) == list(lists.values()), "the same as without a full disk"


def test_a_full_disk_of_catalog_and_store_loses_nothing_that_was_acknowledged(world: World, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", size="16m") as disk,
        running_house(disk / "service", world.roots, SUPERBATCH_STORE_URL=str(disk / "store")) as house,
    ):
        registered = register(house, world)
        first = house.post("/v1/jobs", registered.static(num_batches=2))["id"]
        house.wait_state(first, "SUCCEEDED")
        lists = house.lists(first)
        ballast = fill(disk)
        body = registered.static(num_batches=NUM_BATCHES)
        headers = {"Idempotency-Key": "once"}

        def refused() -> bool:
            answer = house.http.post("/v1/jobs", json=body | {"name": "x" * 100}, headers={})
            assert answer.status_code in (202, 507), answer.text
            if answer.status_code == 507:
                assert answer.json()["code"] == "insufficient_storage"
                assert int(answer.headers["Retry-After"]) > 0
            return answer.status_code == 507

        wait_for(refused, what="the catalog has no room for another job")
        assert house.lists(first) == lists, "what is published is read on"
        ballast.unlink()
        job = wait_for(
            lambda: (
                (answer := house.http.post("/v1/jobs", json=body, headers=headers)).status_code == 202
                and answer.json()["id"]
            ),
            what="the submit is accepted once there is room",
        )
        assert house.wait_state(job, "SUCCEEDED")["next_seq"] == NUM_BATCHES
        assert house.lists(first) == lists
