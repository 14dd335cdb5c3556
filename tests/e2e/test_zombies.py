"""Two supervisors on one catalog: the first sleeps past its lease, the second takes over, the first wakes up."""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import NUM_BATCHES, register
from tests.e2e.sample_world import World
from tests.e2e.trainer import Trainer

pytestmark = [pytest.mark.long, pytest.mark.slow_ray, pytest.mark.timeout(400)]

SLEEP_AT = 5


def test_a_zombie_that_wakes_up_changes_nothing(world: World, tmp_path: Path) -> None:
    shared = {
        "SUPERBATCH_DATABASE_URL": f"sqlite:///{tmp_path}/catalog.sqlite",
        "SUPERBATCH_STORE_URL": str(tmp_path / "store"),
    }
    with running_house(tmp_path / "first", world.roots, **shared) as first:
        job = first.post("/v1/jobs", register(first, world).curate())["id"]
        asleep: list[psutil.Process] = []

        def fall_asleep(seq: int) -> None:
            if seq == SLEEP_AT:
                asleep.extend([first.child("supervisor"), wait_for(first.driver, what="a driver runs")])
                for process in asleep:
                    process.send_signal(signal.SIGSTOP)

        trainer = Trainer(first, world, job, on_seq=fall_asleep)
        trainer.start()
        wait_for(lambda: asleep, what="the first supervisor and its driver sleep")
        try:
            with running_house(tmp_path / "second", world.roots, **shared) as second:
                trainer.finish(limit_s=180)
                second.wait_state(job, "SUCCEEDED")
                before = _visible(second, job)
                for process in asleep:
                    process.send_signal(signal.SIGCONT)
                wait_for(lambda: not asleep[1].is_running() or _is_zombie(asleep[1]), what="the zombie driver stops")
                assert _visible(second, job) == before
                assert before["job"]["attempt"] == 2
        finally:
            for process in asleep:
                if process.is_running():
                    process.send_signal(signal.SIGCONT)
    assert trainer.seqs == list(range(NUM_BATCHES))


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _visible(house: House, job: str) -> dict[str, object]:
    """Return everything that a reader can see of the job."""
    manifest = house.get(f"/v1/jobs/{job}/manifest?after=0")
    return {
        "lists": {name: sha256(data).hexdigest() for name, data in house.lists(job).items()},
        "job": house.get(f"/v1/jobs/{job}"),
        "segments": manifest["segments"],
        "end": manifest["end"],
        "checkpoints": house.get(f"/v1/jobs/{job}/checkpoints"),
    }
