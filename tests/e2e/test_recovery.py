"""Promise 5 of design.md in seconds, under the default lease: how soon a job runs again after each kind of death."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import NUM_BATCHES, register
from tests.e2e.sample_world import World
from tests.e2e.trainer import Trainer

pytestmark = [pytest.mark.long, pytest.mark.slow_ray, pytest.mark.timeout(400)]

DEFAULT_LEASE = {"SUPERBATCH_LEASE_S": "30", "SUPERBATCH_HEARTBEAT_S": "10"}
DEAD_DRIVER_S = 20.0
DEAD_SUPERVISOR_S = 60.0
LOST_GCS_S = 120.0


@contextmanager
def _waiting_job(world: World, folder: Path, **settings: str) -> Iterator[tuple[House, str]]:
    """Yield a service and a job that has composed all it has credit for, its driver and Ray alive."""
    with running_house(folder, world.roots, **DEFAULT_LEASE, **settings) as house:
        job = house.post("/v1/jobs", register(house, world).curate())["id"]
        wait_for(lambda: house.get(f"/v1/jobs/{job}")["phase"] == "waiting_for_trainer", what="all credit is used")
        yield house, job


def _seconds_until_running(house: House, job: str, *, after: Callable[[], None], limit_s: float) -> float:
    """Return how long after a death the next attempt's driver has beaten, so that it has the job and works on it."""
    attempt = house.get(f"/v1/jobs/{job}")["attempt"]
    after()
    died = time.monotonic()

    def runs() -> bool:
        found = house.get(f"/v1/jobs/{job}")
        is_next = found["attempt"] > attempt and found["state"] == "RUNNING"
        return is_next and found["phase"] not in (None, "starting") and house.driver() is not None

    wait_for(runs, what="the next attempt runs", limit_s=limit_s)
    return time.monotonic() - died


def _finish(house: House, world: World, job: str) -> None:
    """Train to the end: what runs again also works."""
    trainer = Trainer(house, world, job)
    trainer.start()
    trainer.finish()
    assert trainer.seqs == list(range(NUM_BATCHES))
    assert house.wait_state(job, "SUCCEEDED")["attempt"] == 2


def _running_driver(house: House) -> psutil.Process:
    return wait_for(house.driver, what="a driver runs")  # type: ignore[no-any-return]


def test_a_job_runs_again_within_20_s_of_its_drivers_death(world: World, tmp_path: Path) -> None:
    with _waiting_job(world, tmp_path / "service") as (house, job):
        driver = _running_driver(house)
        took_s = _seconds_until_running(house, job, after=driver.kill, limit_s=DEAD_DRIVER_S)
        print(f"RECOVERY dead_driver_s {took_s:.1f}")
        _finish(house, world, job)


def test_a_job_runs_again_within_60_s_of_its_supervisors_death(world: World, tmp_path: Path) -> None:
    with _waiting_job(world, tmp_path / "service") as (house, job):
        supervisor = house.child("supervisor")
        took_s = _seconds_until_running(house, job, after=supervisor.kill, limit_s=DEAD_SUPERVISOR_S)
        print(f"RECOVERY dead_supervisor_s {took_s:.1f}")
        _finish(house, world, job)


def test_a_job_runs_again_within_60_s_of_its_hosts_death(world: World, tmp_path: Path) -> None:
    shared = {
        "SUPERBATCH_DATABASE_URL": f"sqlite:///{tmp_path}/catalog.sqlite",
        "SUPERBATCH_STORE_URL": str(tmp_path / "store"),
    }
    with (
        _waiting_job(world, tmp_path / "first", **shared) as (first, job),
        running_house(tmp_path / "second", world.roots, **DEFAULT_LEASE, **shared) as second,
    ):

        def whole_host_dies() -> None:
            processes = first.processes()
            assert len(processes) > 4, "parent, API, supervisor, driver and Ray"
            for process in processes:
                process.suspend()  # together: none sees another one die
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=10)

        took_s = _seconds_until_running(second, job, after=whole_host_dies, limit_s=DEAD_SUPERVISOR_S)
        print(f"RECOVERY dead_host_s {took_s:.1f}")
        _finish(second, world, job)


def test_a_job_runs_again_within_120_s_of_the_loss_of_rays_gcs(world: World, tmp_path: Path) -> None:
    with _waiting_job(world, tmp_path / "service") as (house, job):
        trainer = Trainer(house, world, job)

        def lose_gcs() -> None:
            gcs = [child for child in _running_driver(house).children(recursive=True) if "gcs_server" in child.name()]
            assert len(gcs) == 1
            gcs[0].kill()
            trainer.start()  # there is work: only then does anything need Ray

        took_s = _seconds_until_running(house, job, after=lose_gcs, limit_s=LOST_GCS_S)
        print(f"RECOVERY lost_gcs_s {took_s:.1f}")
        trainer.finish()
        assert trainer.seqs == list(range(NUM_BATCHES))
        house.wait_state(job, "SUCCEEDED")
