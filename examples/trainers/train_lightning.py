"""Lightning: the loader goes to `trainer.fit` as it is, a callback says what was trained; (1) to (3) are ours.

    SUPERBATCH_URL=http://127.0.0.1:8000 SUPERBATCH_JOB=JOB SUPERBATCH_TOKEN=TOKEN \\
        torchrun --nproc-per-node 2 examples/trainers/train_lightning.py
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from tiny_pairs import TinyContrast, open_loader, record

from superbatch.conformance import Trace
from superbatch.torch.lightning import CurationCallback


class TinyModule(pl.LightningModule):
    """The tiny dual encoder as a LightningModule."""

    def __init__(self) -> None:
        """Take the shared model."""
        super().__init__()
        self.model = TinyContrast()

    def training_step(self, batch: dict[str, torch.Tensor], *_: object) -> torch.Tensor:
        """Return the loss; the batch carries one more key, "superbatch", with what it holds."""
        return self.model(batch["pixels"], batch["tokens"])["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Recorded(pl.Callback):
    """Writes what was trained for the conformance kit; a trainer of your own needs no such thing."""

    def __init__(self, trace: Trace, loader: object) -> None:
        """Take the trace and the loader."""
        self._trace, self._loader = trace, loader

    def on_train_batch_end(
        self, _trainer: pl.Trainer, _module: TinyModule, _loss: object, batch: dict, *_: int
    ) -> None:
        """Write one line."""
        record(self._trace, self._loader, batch)


def main() -> None:
    """Train on every batch of the job, one part of each per rank."""
    torch.set_num_threads(1)
    trace = Trace.from_environment()
    loader = open_loader(trace)  # (1) instead of a DataLoader
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=trace.world_size,
        strategy="ddp" if trace.world_size > 1 else "auto",
        max_epochs=1,  # one pass over the log; the callback ends it when the job's last batch is trained
        max_steps=trace.max_steps or -1,
        accumulate_grad_batches=trace.accumulation,
        use_distributed_sampler=False,  # (2) the loader gives each rank its part; Lightning must not split it again
        callbacks=[CurationCallback(loader), Recorded(trace, loader)],  # (3) says what was trained and saved
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(TinyModule(), loader)
    loader.close()


if __name__ == "__main__":
    main()
