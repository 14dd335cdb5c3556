"""examples/train_tiny.py against a real service: killed before and after its first save, it ends as if it never was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from superbatch.formats.errors import DigestMismatch, LogEnded
from superbatch.log import BatchLog
from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import register
from tests.e2e.sample_world import World

pytestmark = pytest.mark.timeout(400)

NUM_BATCHES = 16
PUSH_EVERY = 3
SAVE_EVERY = 8
REPOSITORY = Path(__file__).parents[2]


class Command:
    """The example as its users start it, in a process of its own."""

    def __init__(self, house: House, world: World, job: str, out: Path) -> None:
        self.log_path = out.with_suffix(".log")
        self._argv = [
            *(sys.executable, str(REPOSITORY / "examples" / "train_tiny.py")),
            *("--url", house.url, "--job", job, "--token-file", str(house.data_dir / "token")),
            *("--init-model", str(world.models / "learner"), "--out", str(out), "--log", "json", "--ttl-s", "3"),
            *("--checkpoint-every", str(PUSH_EVERY), "--push-root", f"models={world.models}"),
            *("--save-every", str(SAVE_EVERY)),
        ]

    def start(self, *further: str) -> subprocess.Popen[bytes]:
        """Start it; what it shows goes to `log_path`."""
        with self.log_path.open("wb") as log:
            return subprocess.Popen([*self._argv, *further], stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})

    def kill_at(self, step: int, *further: str) -> None:
        """Start it and kill it as soon as it has trained `step` batches."""
        process = self.start(*further)
        try:
            wait_for(lambda: self.steps() >= step or process.poll() is not None, what=f"step {step}")
            assert process.poll() is None, self.log_path.read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def steps(self) -> int:
        """Return the batches trained so far."""
        shown = [line for line in self.log_path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return int(json.loads(shown[-1])["step"]) if shown else 0


def _uniform(registered: Any, **changes: Any) -> dict[str, Any]:
    """A job with a pushed learner that no Ray has to be started for."""
    selection = {"method": "uniform", "b": 16, "f": 0.75, "N": 1}
    refresh = {"max_staleness": 8, "on_stale": "wait", "before_first": "uniform"}
    spec = {"reference": None, "selection": selection, "refresh": refresh, "num_batches": NUM_BATCHES}
    return dict(registered.curate(**{**spec, **changes}))


def test_a_killed_trainer_gets_the_same_batches_again_and_ends_with_the_same_weights(
    world: World, tmp_path: Path
) -> None:
    """Its ttl of 3 s is shorter than the index pass: production goes on because the waiting log stays registered."""
    with running_house(tmp_path / "service", world.roots) as house:
        job = house.post("/v1/jobs", _uniform(register(house, world)))["id"]
        command = Command(house, world, job, tmp_path / "killed")
        command.kill_at(3)  # long before anything but the start was saved
        shutil.copytree(tmp_path / "killed", tmp_path / "whole")
        command.kill_at(10, "--resume")  # saved at 8, pushed at 9, long before it is saved again
        pushed = house.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
        assert max(each["trained_seq"] for each in pushed) >= 9

        process = command.start("--resume")
        assert process.wait(timeout=120) == 0, command.log_path.read_text()
        house.wait_state(job, "SUCCEEDED")
        pushed = house.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
        (learner,) = house.get(f"/v1/jobs/{job}/consumers")["consumers"]
        undisturbed = Command(house, world, job, tmp_path / "whole")
        process = undisturbed.start("--resume")
        assert process.wait(timeout=120) == 0, undisturbed.log_path.read_text()

    killed, whole = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("killed", "whole"))
    assert killed["losses"] == whole["losses"]
    assert len(whole["losses"]) == NUM_BATCHES
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("killed", "whole")]
    assert weights[0] == weights[1]
    assert learner["report"]["durable_seq"] == NUM_BATCHES
    nine = [each["state"] for each in pushed if each["trained_seq"] == 9]
    assert nine.count("ORPHANED") == 1, "the one that the second kill left behind"
    assert nine[0] != "ORPHANED", "pushed again after the rewind, with the same bytes"


def test_a_trainer_that_waits_is_told_how_its_job_ended(world: World, tmp_path: Path) -> None:
    with running_house(tmp_path / "service", world.roots) as house:
        job = house.post("/v1/jobs", _uniform(register(house, world)))["id"]
        token = (house.data_dir / "token").read_text().strip()
        with BatchLog(house.url, job, token=token, wait_s=2.0, num_attempts=60) as log:
            log.register("trainer", checkpoint_every=PUSH_EVERY, ttl_s=3.0)
            next(log)
            house.child("api_process").kill()  # while the log is open; the parent starts another one
            while log.state()["next_seq"] < 6:
                next(log)
            house.get(f"/v1/jobs/{job}")
            assert house.http.post(f"/v1/jobs/{job}:cancel").is_success
            with pytest.raises(LogEnded, match="the job was cancelled after"):
                list(log)
        _rot_second_list(house)
        with BatchLog(house.url, job, token=token) as log:
            assert [next(log).seq for _ in range(2)] == [0, 1]
            with pytest.raises(DigestMismatch, match=r"3 tries.*Restore the list"):
                next(log)
            assert log.state()["next_seq"] == 2, "nothing was handed out"


def _rot_second_list(house: House) -> None:
    (path,) = house.data_dir.rglob("lists/000000000002-000000000004-*.parquet")
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
