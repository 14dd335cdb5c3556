"""A trainer that knows nothing of checkpoints being pushed, watched from outside: open_clip's files, a real service, no
shared root. One epoch is not finite, a malicious file lies among the others, the API and the watch are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from superbatch.log import BatchLog
from superbatch.tiny.model import initial_model
from tests.e2e.house import House, running_house, wait_for
from tests.e2e.jobs import NUM_BATCHES, register
from tests.e2e.sample_world import CONFIG, World

pytestmark = [pytest.mark.long, pytest.mark.slow_ray, pytest.mark.timeout(400)]

BATCHES_PER_EPOCH = 4
SPOILED_EPOCH = 2


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch '{path}'"

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (self.command,))


def save_epoch(folder: Path, epoch: int) -> None:
    """Write what open_clip writes after an epoch under DistributedDataParallel."""
    state = initial_model(CONFIG, seed=100 + epoch).state_dict()
    if epoch == SPOILED_EPOCH:
        state["text_tower.3.bias"].fill_(float("nan"))
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": epoch, "name": "run", "state_dict": wrapped, "optimizer": {}}, folder / f"epoch_{epoch}.pt")


class Trainer(threading.Thread):
    """Trains to the end of the log and saves an epoch every four batches; each takes it longer than a push."""

    def __init__(self, house: House, job: str, folder: Path, log: Path) -> None:
        super().__init__(daemon=True)
        self.house, self.job, self.folder, self.watch_log = house, job, folder, log
        self.trained_seq = 0

    def run(self) -> None:
        """Follow the log."""
        token = (self.house.data_dir / "token").read_text().strip()
        with BatchLog(self.house.url, self.job, token=token, wait_s=2.0, num_attempts=60) as log:
            log.register("plain", checkpoint_every=BATCHES_PER_EPOCH)
            for batch in log:
                self.trained_seq = batch.seq + 1
                if self.trained_seq % BATCHES_PER_EPOCH == 0:
                    self._end_epoch(self.trained_seq // BATCHES_PER_EPOCH)
                log.progress(trained_seq=self.trained_seq, durable_seq=self.trained_seq)

    def _end_epoch(self, epoch: int) -> None:
        save_epoch(self.folder, epoch)
        ends = (f"epoch_{epoch}.pt: pushed", "no further checkpoint is needed")
        wait_for(lambda: any(end in self.watch_log.read_text() for end in ends), what=f"epoch {epoch} is pushed")


def start_watch(house: House, job: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "superbatch.cli.main", "watch-checkpoints", str(folder), "--job", job),
        *("--batches-per-epoch", str(BATCHES_PER_EPOCH), "--settle-s", "0.5", "--poll-s", "0.2"),
        *("--url", house.url, "--token-file", str(house.data_dir / "token")),
    ]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env={"PATH": os.environ["PATH"]})


def test_a_trainer_that_is_only_watched_keeps_the_scores_fresh(world: World, tmp_path: Path) -> None:
    folder, log = tmp_path / "checkpoints", tmp_path / "watch.log"
    folder.mkdir()
    log.touch()
    torch.save({"state_dict": Malicious(tmp_path / "made")}, folder / "epoch_0.pt")
    abandoned = tmp_path / "service" / "uploads" / "job_0123456789abcdef" / f"{'0' * 64}.9.part"
    abandoned.parent.mkdir(parents=True)
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    with running_house(tmp_path / "service", world.roots) as house:
        wait_for(lambda: not abandoned.exists(), what="an upload that nobody went on with is removed")
        job = house.post("/v1/jobs", register(house, world).curate())["id"]
        trainer = Trainer(house, job, folder, log)
        trainer.start()
        watch = start_watch(house, job, folder, log)
        wait_for(lambda: "epoch_1.pt: pushed" in log.read_text(), what="the first epoch is pushed")
        watch.send_signal(signal.SIGKILL)
        watch.wait()
        watch = start_watch(house, job, folder, log)
        house.child("api_process").kill()
        house.wait_state(job, "SUCCEEDED", limit_s=240)
        trainer.join(60)
        assert watch.wait(timeout=60) == 0, log.read_text()
        assert trainer.trained_seq == NUM_BATCHES

        said = log.read_text()
        assert "epoch_0.pt: REFUSED [conversion_refused]" in said
        assert not (tmp_path / "made").exists()
        pushed = house.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
        by_epoch = {found["trained_seq"] // BATCHES_PER_EPOCH: found for found in pushed}
        assert len(by_epoch) == len(pushed) >= 4, "each epoch once, however often the watch was started"
        assert by_epoch[SPOILED_EPOCH]["state"] == "REJECTED"
        assert by_epoch[SPOILED_EPOCH]["reason"].startswith(
            "invalid_weights: tensor 'text_tower.3.bias' must be finite"
        )
        states = {epoch: found["state"] for epoch, found in by_epoch.items() if epoch != SPOILED_EPOCH}
        assert sorted(states.values())[0] == "ACTIVE"
        assert set(states.values()) <= {"ACTIVE", "SUPERSEDED", "RECEIVED"}
        assert {found["files"][0]["root"] for found in pushed} == {"uploads"}
        manifest = house.get(f"/v1/jobs/{job}/manifest")
        scored = {segment["scored_with"]["trained_seq"] for segment in manifest["segments"] if segment["scored_with"]}
        assert scored
        assert SPOILED_EPOCH * BATCHES_PER_EPOCH not in scored
        print(f"WATCHED pushed {len(pushed)} scored_with {sorted(scored)}")
