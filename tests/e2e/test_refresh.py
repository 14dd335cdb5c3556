"""A job whose trainer pauses gives its machine back, wakes when that helps, and publishes as if it had never paused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch.log import BatchLog
from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import NUM_BATCHES, Registered, register
from tests.e2e.sample_world import World

pytestmark = [pytest.mark.slow_ray, pytest.mark.long, pytest.mark.timeout(900)]

SERVICE = ("service.serve", "service.supervisor", "service.api_process")
MAX_STALENESS = 8


class PausingTrainer:
    """A learner that trains and pushes only when it is told to."""

    def __init__(self, house: House, world: World, job: str, log: BatchLog) -> None:
        self.house, self.world, self.job, self.log = house, world, job, log
        self.uids: list[list[bytes]] = []
        log.register("trainer", checkpoint_every=4, ttl_s=3600)

    def train_to(self, seq: int) -> None:
        """Train the batches before `seq` and report that."""
        while len(self.uids) < seq:
            self.uids.append(next(self.log).rows.column("uid").to_pylist())
        self.log.progress(trained_seq=seq, durable_seq=seq)

    def push(self, trained_seq: int) -> None:
        """Push a checkpoint of so many batches."""
        self.world.write_checkpoint(f"{self.job}-{trained_seq}", seed=50 + trained_seq)
        file = self.world.file("weights", f"{self.job}-{trained_seq}/model.safetensors")
        self.house.post(f"/v1/jobs/{self.job}/checkpoints", {"trained_seq": trained_seq, "files": [file]})


def test_an_idle_job_frees_the_machine_wakes_and_publishes_what_it_would_have_published(
    world: World, tmp_path: Path
) -> None:
    with running_house(tmp_path / "service", world.roots, SUPERBATCH_IDLE_RELEASE_S="0.5") as house:
        registered = register(house, world)
        job = house.post("/v1/jobs", registered.curate())["id"]
        token = (house.data_dir / "token").read_text().strip()
        with BatchLog(house.url, job, token=token, wait_s=2.0, num_attempts=60) as log:
            trainer = PausingTrainer(house, world, job, log)
            first = _idle(house, job, "waiting_for_trainer", next_seq=MAX_STALENESS)
            _run_another(house, registered)
            assert house.get(f"/v1/jobs/{job}")["attempt"] == first["attempt"], "not claimed while nothing has moved"

            trainer.train_to(4)  # credit for batches 8 to 11, still without a checkpoint
            _idle(house, job, "waiting_for_trainer", next_seq=12)
            trainer.push(4)
            trainer.train_to(8)  # credit to 16, but the checkpoint of 4 batches may score none after 11
            idle = _idle(house, job, "waiting_for_checkpoint", next_seq=12)
            excluded = trainer.uids[1][:3]
            house.post(f"/v1/jobs/{job}/exclusions", {"uids": [uid.hex() for uid in excluded], "reason": "by a test"})
            trainer.train_to(12)
            _run_another(house, registered)
            assert house.get(f"/v1/jobs/{job}")["attempt"] == idle["attempt"], "credit is not what it waits for"
            assert _revoked(house, job) >= {1}, "found without a driver"

            trainer.push(12)
            trainer.train_to(20)
            trainer.push(20)
            trainer.train_to(NUM_BATCHES)
        ended = house.wait_state(job, "SUCCEEDED")
        lists, manifest = house.lists(job), house.get(f"/v1/jobs/{job}/manifest?after=0")
        events = [event["kind"] for event in house.get(f"/v1/jobs/{job}/events?page_size=200")["events"]]
        stats = house.get(f"/v1/jobs/{job}/stats")

        refresh = {**registered.curate()["refresh"], "replay": job}
        replay = house.post("/v1/jobs", registered.curate(refresh=refresh))["id"]
        assert house.wait_state(replay, "SUCCEEDED")["attempt"] == 1
        assert house.lists(replay) == lists, "without a pause and with the recorded exclusions: the same bytes"

    assert ended["history_id"] == first["history_id"]
    assert events.count("released") >= 3
    assert events.count("woken") >= 3
    assert sum(BatchListReader(data).num_batches for data in lists.values()) == NUM_BATCHES
    assert not set(excluded) & {uid for uids in trainer.uids[12:] for uid in uids}
    assert {row["exclusions_digest"] for row in stats["schedule"][12:]} == {stats["exclusions_digest"]}
    generations = [segment["generation"] for segment in manifest["segments"]]
    assert generations == sorted(generations)
    assert set(generations) == {0, 2, 3} or set(generations) == {0, 1, 2, 3}
    assert all(
        seq - segment["scored_with"]["trained_seq"] < MAX_STALENESS
        for segment in manifest["segments"]
        if segment["scored_with"]
        for seq in range(segment["first_seq"], segment["first_seq"] + segment["num_batches"])
    )


def _idle(house: House, job: str, phase: str, *, next_seq: int) -> dict[str, Any]:
    """Wait until the job is queued in this phase and nothing of its attempts is left, neither driver nor Ray."""

    def released() -> dict[str, Any] | None:
        found = house.get(f"/v1/jobs/{job}")
        assert found["state"] != "FAILED", (found["error"], house.driver_logs())
        return found if (found["state"], found["phase"], found["next_seq"]) == ("QUEUED", phase, next_seq) else None

    found: dict[str, Any] = wait_for(released, what=f"{job} is {phase} at {next_seq}", limit_s=180)
    wait_for(lambda: not _working(house), what="driver and Ray are gone")
    return found


def _working(house: House) -> list[str]:
    """Return the command of every process of the house but the service's own three."""
    commands = []
    for process in house.processes(marker=""):
        try:
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if not any(name in command for name in SERVICE):
            commands.append(command)
    return commands


def _run_another(house: House, registered: Registered) -> None:
    """Run a job that needs no Ray to its end: the supervisor has then looked at its queue more than once."""
    selection = {"method": "uniform", "b": 16, "f": 0.75, "N": 1}
    spec = registered.curate(reference=None, learner=None, selection=selection, refresh={}, num_batches=2)
    house.wait_state(house.post("/v1/jobs", spec)["id"], "SUCCEEDED", limit_s=180)


def _revoked(house: House, job: str) -> set[int]:
    """Wait for the end of the search for excluded rows; return the seqs that the manifest revokes."""
    wait_for(lambda: not house.get(f"/v1/jobs/{job}/exclusions")["is_searching"], what="published lists are searched")
    ranges = house.get(f"/v1/jobs/{job}/manifest?after=0")["revoked"]
    return {seq for each in ranges for seq in range(each["first_seq"], each["first_seq"] + each["num_batches"])}
