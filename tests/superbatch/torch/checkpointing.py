"""Trainers for the kit that resume from their framework's own checkpoints, saved after every micro-step.

    python -m tests.superbatch.torch.checkpointing accelerate | lightning | hf_trainer

A line of the trace stands for an optimizer step that was really made: what entered the model since the last one is
written when the optimizer steps, and a step of anything but one whole batch ends the run. A start that is to stop goes
one micro-step further where that is inside a batch, so that its last checkpoint lies there.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from transformers import TrainerCallback, TrainingArguments

from superbatch.conformance import Trace
from superbatch.log import BatchLog
from superbatch.torch import BatchSlice, CuratedLoader, Workers
from superbatch.torch.lightning import CurationCallback
from superbatch.torch.transformers import CuratedTrainer
from tests.superbatch.torch.world import to_sample


class Steps:
    """Writes the micro-steps of each optimizer step, and where the framework's last checkpoint lies."""

    def __init__(self, trace: Trace) -> None:
        assert trace.state_file is not None
        self.trace = trace
        self.folder = trace.state_file.parent / "checkpoints"
        self._pointer = trace.state_file.parent / "latest.txt"
        self._taken: list[BatchSlice] = []
        self._num_saved = 0

    def take(self, held: BatchSlice) -> None:
        """Note what entered the model."""
        self._taken.append(held)

    def made(self) -> None:
        """Write one optimizer step."""
        taken, self._taken = self._taken, []
        wanted = [(taken[0].seq, micro) for micro in range(self.trace.accumulation)]
        assert [(held.seq, held.micro) for held in taken] == wanted, f"a step of {taken}"
        for held in taken:
            self.trace.step(held.seq, held.uids, micro=held.micro if self.trace.accumulation > 1 else None)

    def next_path(self) -> Path:
        """Where the next checkpoint goes."""
        self._num_saved += 1
        return self.folder / f"{self.trace.accumulation}-{self._num_saved}"

    def saved(self, path: Path, loader: CuratedLoader) -> None:
        """The checkpoint at `path` is whole."""
        if self.trace.rank == 0:
            self._pointer.write_text(str(path))
        self.trace.save_state(loader.state_dict())

    def latest(self) -> str | None:
        """The last whole checkpoint."""
        return self._pointer.read_text() if self._pointer.exists() else None

    @property
    def is_at_end(self) -> bool:
        """The start is over: after its last step, and inside the next batch where there is an inside."""
        return self.trace.is_finished and (bool(self._taken) or self.trace.accumulation == 1)


def open_loader(trace: Trace) -> CuratedLoader:
    assert trace.url is not None
    assert trace.job is not None
    open_log = partial(BatchLog, trace.url, trace.job, token=trace.token, wait_s=1.0)
    workers = Workers(num_workers=trace.num_workers)
    return CuratedLoader(open_log, to_sample, name="t", accumulation=trace.accumulation, workers=workers)


class Tiny(torch.nn.Module):
    """Learns a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, uid: torch.Tensor, caption: object = None) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * uid.float().mean() * 1e-6).sum()}


def with_accelerate(trace: Trace) -> None:
    """save_state after every micro-step, load_state at the start."""
    steps = Steps(trace)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=trace.accumulation,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    tiny = Tiny()
    model, optimizer = accelerator.prepare(tiny, torch.optim.SGD(tiny.parameters(), lr=1e-6))
    loader = open_loader(trace).prepared_by(accelerator)
    accelerator.register_for_checkpointing(loader)
    if (latest := steps.latest()) is not None:
        accelerator.load_state(latest)
    for batch in loader:
        held = batch.pop("superbatch")
        assert isinstance(held, BatchSlice)
        steps.take(held)
        with accelerator.accumulate(model):
            accelerator.backward(model(batch["uid"])["loss"])
            optimizer.step()
            optimizer.zero_grad()
        loader.trained(held)
        if accelerator.sync_gradients:  # the optimizer of accelerate steps then, and only then
            steps.made()
        path = steps.next_path()
        accelerator.save_state(str(path))
        accelerator.wait_for_everyone()
        steps.saved(path, loader)
        if steps.is_at_end:
            break
    loader.close()
    accelerator.end_training()


class TinyModule(pl.LightningModule):
    """The same for Lightning."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.model, self._steps = Tiny(), steps

    def training_step(self, batch: dict[str, object], *_: object) -> torch.Tensor:
        held, uid = batch["superbatch"], batch["uid"]
        assert isinstance(held, BatchSlice)
        assert isinstance(uid, torch.Tensor)
        self._steps.take(held)
        return self.model(uid)["loss"]  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class SaveAlways(pl.Callback):
    """A checkpoint after every micro-step."""

    def __init__(self, steps: Steps, loader: CuratedLoader) -> None:
        self._steps, self._loader, self._num_made = steps, loader, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._num_made = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step > self._num_made:
            self._num_made = trainer.global_step
            self._steps.made()
        path = self._steps.next_path()
        trainer.save_checkpoint(path)
        self._steps.saved(path, self._loader)
        trainer.should_stop = trainer.should_stop or self._steps.is_at_end


def with_lightning(trace: Trace) -> None:
    """save_checkpoint after every micro-step, ckpt_path at the start."""
    steps, loader = Steps(trace), open_loader(trace)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=trace.world_size,
        strategy="ddp" if trace.world_size > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=trace.accumulation,
        use_distributed_sampler=False,
        callbacks=[CurationCallback(loader), SaveAlways(steps, loader)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    trainer.fit(TinyModule(steps), loader, ckpt_path=steps.latest())
    loader.close()


class Saved(TrainerCallback):
    """Notes each checkpoint of the HF Trainer."""

    def __init__(self, steps: Steps, loader: CuratedLoader) -> None:
        self._steps, self._loader = steps, loader

    def on_save(self, args: TrainingArguments, state: object, control: object, **_: object) -> None:
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"  # type: ignore[attr-defined]
        self._steps.saved(path, self._loader)


class Recorded(CuratedTrainer):
    """Writes each step."""

    steps: Steps

    def on_trained(self, held: BatchSlice) -> None:
        self.steps.take(held)
        if held.micro == self.curated.accumulation - 1:
            self.steps.made()


def with_hf_trainer(trace: Trace) -> None:
    """A checkpoint after every optimizer step, resume_from_checkpoint at the start."""
    steps, loader = Steps(trace), open_loader(trace)
    arguments = TrainingArguments(
        output_dir=str(steps.folder),
        use_cpu=True,
        max_steps=trace.max_steps or 10**6,
        gradient_accumulation_steps=trace.accumulation,
        accelerator_config={"split_batches": True},
        ignore_data_skip=True,
        save_strategy="steps",
        save_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Recorded(model=Tiny(), args=arguments, curated=loader, callbacks=[Saved(steps, loader)])
    trainer.steps = steps
    trainer.train(resume_from_checkpoint=steps.latest())
    loader.close()


TRAINERS = {"accelerate": with_accelerate, "lightning": with_lightning, "hf_trainer": with_hf_trainer}

if __name__ == "__main__":
    torch.set_num_threads(1)
    TRAINERS[sys.argv[1]](Trace.from_environment())
