"""Progress of an open_clip run as the service wants it: that is the credit for new batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from superbatch.formats.errors import InvalidInput
from superbatch.openclip.plan import ReadingPlan

if TYPE_CHECKING:
    from superbatch.log import BatchLog, LogState

OpenLog = Callable[..., "BatchLog"]
"""Opens the job's log; takes what BatchLog does from `state` on, by name."""

PREFETCH_FACTOR = 2
"""torch's: batches that a worker of open_clip's loader prepares ahead of the one it hands out."""


@dataclass(frozen=True, slots=True)
class Saving:
    """When open_clip saves: after every `every_epochs` epochs (0 = never); `most_recent` = after every one."""

    every_epochs: int
    most_recent: bool

    def has_saved(self, num_epochs: int) -> bool:
        """Claim that a checkpoint holds the first `num_epochs` epochs."""
        return self.most_recent or (self.every_epochs > 0 and num_epochs % self.every_epochs == 0)

    def epochs_between(self) -> int | None:
        """Return the epochs between two checkpoints, or None where none are saved."""
        return 1 if self.most_recent else self.every_epochs or None


class StepReports:
    """Reports each trained batch; on rank 0 only. It reads the lists of the log, not the pictures.

    What was trained counts as saved once open_clip has saved the epoch it lies in.

    Args:
        open_log: opens the job's log.
        name: of the trainer, the same after a restart.
        plan: what the trainer reads.
        epochs: those of this run; it resumes per epoch only.
        num_workers: of the loader, for how far it reads ahead.
        saving: when checkpoints are saved.
    Raises:
        InvalidInput: epochs that train the same batches again, which is no progress in a log.
        ServiceError: sizes that the service cannot serve, or another learner.
    """

    def __init__(
        self,
        open_log: OpenLog,
        name: str,
        *,
        plan: ReadingPlan,
        epochs: range,
        num_workers: int,
        saving: Saving,
    ) -> None:
        if plan.is_repeated and epochs.stop > 1:
            raise InvalidInput(
                f"progress is reported for batches that are trained once; got {epochs.stop} epochs over the same tars. "
                "Leave out --report, or give tars for all epochs."
            )
        self._plan, self._saving = plan, saving
        first_seq, _ = plan.batch_of(epochs.start, 0)
        self._durable_seq = first_seq
        self._log = open_log(state=_state_at(open_log, first_seq))
        self._log.read_ahead = -(-num_workers * (PREFETCH_FACTOR + 1) // plan.accumulation)
        self._next_seq = first_seq
        self._log.register(
            name,
            world_size=plan.world_size,
            accumulation=plan.accumulation,
            checkpoint_every=self._batches_between(),
            rewind=True,
        )

    def trained(self, seq: int, micro: int, uids: Sequence[str]) -> None:
        """Report batch `seq`, after its last micro-step."""
        del uids
        if micro != self._plan.accumulation - 1:
            return
        while self._next_seq <= seq:
            next(self._log)
            self._next_seq += 1
        self._durable_seq = self._saved_before(seq)
        self._log.progress(trained_seq=seq + 1, durable_seq=self._durable_seq)

    def _saved_before(self, seq: int) -> int:
        """Return the batches in the newest checkpoint: open_clip saves between two epochs."""
        per_epoch = self._plan.steps_per_epoch // self._plan.accumulation
        start_seq, _ = self._plan.batch_of(0, 0)
        epoch = (seq - start_seq) // per_epoch
        return start_seq + epoch * per_epoch if self._saving.has_saved(epoch) else self._durable_seq

    def _batches_between(self) -> int | None:
        epochs = self._saving.epochs_between()
        return None if epochs is None else epochs * self._plan.steps_per_epoch // self._plan.accumulation


def _state_at(open_log: OpenLog, seq: int) -> LogState:
    """Return the state before batch `seq`, by reading the lists of all batches before it.

    Those are trained: that some were withdrawn since is no reason to stop.
    """
    with open_log(on_revoked="skip", world_size=1) as log:
        while log.state()["next_seq"] < seq:
            next(log)
        return log.state_at(seq)
