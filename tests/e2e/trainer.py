"""A trainer without a model: reads every batch, reports progress, and pushes made-up checkpoints of the learner."""

from __future__ import annotations

import threading
from collections.abc import Callable

from superbatch.log import BatchLog
from tests.e2e.house import House
from tests.e2e.sample_world import World

PUSH_EVERY = 4


class Trainer(threading.Thread):
    """Trains on a job in a thread of its own; `seqs` grows as it goes."""

    def __init__(self, house: House, world: World, job: str, *, on_seq: Callable[[int], None] | None = None) -> None:
        super().__init__(daemon=True)
        self.house, self.world, self.job, self.on_seq = house, world, job, on_seq
        self.seqs: list[int] = []
        self.uids: list[list[bytes]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        """Follow the log to its end."""
        try:
            self._follow()
        except BaseException as error:
            self.error = error

    def _follow(self) -> None:
        token = (self.house.data_dir / "token").read_text().strip()
        with BatchLog(self.house.url, self.job, token=token, wait_s=2.0, num_attempts=60) as log:
            log.register("thread", checkpoint_every=PUSH_EVERY)
            for batch in log:
                self.seqs.append(batch.seq)
                self.uids.append(batch.rows.column("uid").to_pylist())
                trained_seq = batch.seq + 1
                if trained_seq % PUSH_EVERY == 0:
                    self._push(log, trained_seq)
                log.progress(trained_seq=trained_seq, durable_seq=trained_seq)
                if self.on_seq is not None:
                    self.on_seq(batch.seq)

    def _push(self, log: BatchLog, trained_seq: int) -> None:
        name = f"pushed-{self.job}-{trained_seq}"
        self.world.write_checkpoint(name, seed=100 + trained_seq)
        path = self.world.models / name / "model.safetensors"
        log.push_checkpoint(
            path,
            root="models",
            root_path=self.world.models,
            key=f"pushed/{self.job}/{trained_seq}.safetensors",
            trained_seq=trained_seq,
        )

    def finish(self, *, limit_s: float = 120) -> None:
        """Wait for the end and raise what went wrong."""
        self.join(limit_s)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), f"the trainer is still at seq {self.seqs[-1:]} after {limit_s} s"
