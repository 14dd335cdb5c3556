"""Lightning: a callback that says what was trained. The loader itself goes to `trainer.fit` as it is.

Lightning leaves a CuratedLoader alone, because it is no DataLoader, and keeps its state in every checkpoint, because it
has state_dict and load_state_dict.
"""

from __future__ import annotations

from collections.abc import Mapping

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the same classes under the name of the smaller package
    from pytorch_lightning import Callback, LightningModule, Trainer

from superbatch.formats.errors import InvalidInput
from superbatch.torch.loader import CuratedLoader


class CurationCallback(Callback):  # type: ignore[misc] # its package is optional
    """Tells a curated loader which batches were trained and saved.

    The batches before a checkpoint are reported as saved when the next checkpoint begins, or when the training ends,
    because Lightning does not say when a file is complete.

    Args:
        loader: the one that is passed to `trainer.fit`.
    """

    def __init__(self, loader: CuratedLoader) -> None:
        self._loader = loader
        self._being_saved: Mapping[str, object] | None = None
        loader.look_ahead += 1  # Lightning takes one more, to know which is the last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse another accumulation than the loader's.

        Raises:
            InvalidInput: they differ, so an optimizer step would not be one batch.
        """
        if trainer.accumulate_grad_batches != self._loader.accumulation:
            raise InvalidInput(
                "an optimizer step must be one batch; got accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches} with accumulation={self._loader.accumulation}. Give both the same."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Note a trained micro-step."""
        assert isinstance(batch, Mapping)
        self._loader.trained(batch)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Report the checkpoint before this one as saved."""
        self._report_saved()
        self._being_saved = self._loader.state_dict()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last checkpoint as saved."""
        self._report_saved()

    def _report_saved(self) -> None:
        if self._being_saved is not None:
            self._loader.saved(self._being_saved)
            self._being_saved = None
