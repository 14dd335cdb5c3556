"""An acknowledged submit is never lost: the API is killed the moment it has answered."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import register
from tests.e2e.sample_world import World

pytestmark = pytest.mark.timeout(200)

NUM_KILLS = 4


def _submit(house: House, body: object, *, key: str) -> str:
    """Send until acknowledged; the key makes it one request however often it is sent."""

    def acknowledged() -> httpx.Response | None:
        try:
            return house.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return None

    response: httpx.Response = wait_for(acknowledged, what="a submit is acknowledged")
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def test_a_kill_right_after_the_answer_loses_and_doubles_no_job(world: World, tmp_path: Path) -> None:
    with running_house(tmp_path / "service", world.roots) as house:
        body = register(house, world).curate()
        jobs = []
        for number in range(NUM_KILLS):
            api: psutil.Process = wait_for(lambda: _api(house), what="the API runs")
            jobs.append(_submit(house, body, key=f"submit-{number}"))
            api.kill()
            psutil.wait_procs([api], timeout=10)
        assert len(set(jobs)) == NUM_KILLS
        for number, job in enumerate(jobs):
            assert house.get(f"/v1/jobs/{job}")["id"] == job
            assert _submit(house, body, key=f"submit-{number}") == job
        assert sorted(found["id"] for found in house.get("/v1/jobs")["jobs"]) == sorted(jobs)
        for job in jobs:
            house.post(f"/v1/jobs/{job}:cancel", {}, status=200)


def _api(house: House) -> psutil.Process | None:
    try:
        return house.child("api_process")
    except StopIteration:
        return None
