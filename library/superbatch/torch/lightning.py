"""Lightning: a callback that says what was trained. The loader itself goes to `trainer.fit` as it is.

Lightning leaves a CuratedLoader alone, because it is no DataLoader, and keeps its state in every checkpoint, because it
has state_dict and load_state_dict.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, cast

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the same classes under the name of the smaller package
    from pytorch_lightning import Callback, LightningModule, Trainer

from superbatch.formats.errors import InvalidInput
from superbatch.torch.collate import slice_of
from superbatch.torch.loader import CuratedLoader


class CurationCallback(Callback):  # type: ignore[misc] # its package is optional
    """Tells a curated loader which batches were trained and saved, and keeps optimizer steps and batches together.

    The batches before a checkpoint are reported as saved when the next checkpoint begins, or when the training ends,
    because Lightning does not say when a file is complete. A checkpoint that was saved inside an accumulated batch, or
    under another accumulation, resumes at the beginning of that batch.

    Args:
        loader: the one that is passed to `trainer.fit`.
    """

    def __init__(self, loader: CuratedLoader) -> None:
        self._loader = loader
        self._being_saved: Mapping[str, object] | None = None
        self._first_step: int | None = None
        self._first_trained = 0
        loader.takes_ahead("Lightning", 1)  # to know which is the last

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulation under which Lightning's counts were made."""
        return {"accumulation": self._loader.accumulation}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let Lightning count on from the beginning of a batch."""
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        if (progress := loops.get("epoch_loop.batch_progress")) is not None:
            own = checkpoint.get("callbacks", {}).get(self.state_key, {})
            saved = cast("int", own.get("accumulation", self._loader.accumulation))
            _count_from_batch(progress, saved=saved, wanted=self._loader.accumulation)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse settings under which an optimizer step would not be one batch.

        Raises:
            InvalidInput: another accumulation than the loader's, or epochs that end inside a batch.
        """
        accumulation = self._loader.accumulation
        if trainer.accumulate_grad_batches != accumulation:
            raise InvalidInput(
                "an optimizer step must be one batch; got accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches} with accumulation={accumulation}. Give both the same."
            )
        limit = trainer.num_training_batches
        if limit != float("inf") and limit % accumulation:
            raise InvalidInput(
                f"an epoch must end with a batch; got limit_train_batches={limit}, which accumulation={accumulation} "
                "does not divide. Lightning counts micro-steps there: give a multiple of the accumulation."
            )
        self._first_step, self._first_trained = trainer.global_step, self._loader.num_trained

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Note a trained micro-step.

        Raises:
            InvalidInput: an optimizer step inside a batch, or none at its end.
            LogError: the log cannot go on after this batch.
        """
        assert isinstance(batch, Mapping)
        held = slice_of(batch)
        is_last = held.micro == self._loader.accumulation - 1
        if (left := self._steps_ahead(trainer) - is_last) != 0:
            raise InvalidInput(
                "an optimizer step must be one batch; got "
                f"{'one inside' if left > 0 else 'none at the end of'} batch {held.seq}, after micro-step {held.micro} "
                f"of {self._loader.accumulation}. Let Lightning accumulate with accumulate_grad_batches alone, and "
                "resume with this callback in the trainer."
            )
        try:
            self._loader.trained(held)
        except Exception:
            # Lightning takes the batch before an error of the log for the last one of the epoch; a checkpoint that is
            # saved because of the error must not say so, or a resumed run would end at once.
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
            raise

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Report the checkpoint before this one as saved.

        Raises:
            InvalidInput: the optimizer has made a step whose batch is not noted yet, so it would be trained twice.
        """
        if self._steps_ahead(trainer) > 0:
            raise InvalidInput(
                "a checkpoint must be saved after its batch is noted; got an optimizer step more than the "
                f"{self._loader.num_trained} batches trained. Put CurationCallback before the callback that saves."
            )
        self._report_saved()
        self._being_saved = self._loader.state_dict()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last checkpoint as saved."""
        self._report_saved()

    def _steps_ahead(self, trainer: Trainer) -> int:
        """Return how many optimizer steps were made beyond the batches noted; a manual optimization is not counted."""
        if self._first_step is None or not trainer.lightning_module.automatic_optimization:
            return 0
        return cast("int", trainer.global_step - self._first_step) - (self._loader.num_trained - self._first_trained)

    def _report_saved(self) -> None:
        if self._being_saved is not None:
            self._loader.saved(self._being_saved)
            self._being_saved = None


def _count_from_batch(progress: MutableMapping[str, Any], *, saved: int, wanted: int) -> None:
    """Set Lightning's counts of micro-steps to those of the whole batches trained in the epoch.

    Args:
        progress: the state of its batch progress; changed in place.
        saved: micro-steps per batch when it was saved. wanted: micro-steps per batch from now on.
    """
    current, total = progress["current"], progress["total"]
    # Saved while a micro-step ends, Lightning has processed that one, and completes it when it resumes.
    is_ending = total["processed"] == total["ready"] == total["completed"] + 1
    num_done = current["completed"] + is_ending
    moved = num_done // saved * wanted - num_done
    for counts in (current, total):
        if num_done % saved:
            counts.update(dict.fromkeys(counts, counts["completed"] + is_ending + moved))
        else:
            counts.update({name: count + moved for name, count in counts.items()})
