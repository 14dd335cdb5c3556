"""Hugging Face Trainer: CuratedTrainer takes the loader in place of a data set; (1) to (3) are ours.

    SUPERBATCH_URL=http://127.0.0.1:8000 SUPERBATCH_JOB=JOB SUPERBATCH_TOKEN=TOKEN \\
        torchrun --nproc-per-node 2 examples/trainers/train_hf_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from tiny_pairs import TinyContrast, open_loader, record
from transformers import TrainingArguments

from superbatch.conformance import Trace
from superbatch.torch import BatchSlice
from superbatch.torch.transformers import CuratedTrainer


class RecordedTrainer(CuratedTrainer):
    """Writes what was trained for the conformance kit; a trainer of your own is a CuratedTrainer."""

    trace = Trace.from_environment()

    def on_trained(self, held: BatchSlice) -> None:
        """Write one line."""
        record(self.trace, self.curated, held)


def main() -> None:
    """Train on every batch of the job, one part of each per rank."""
    torch.set_num_threads(1)
    trace = Trace.from_environment()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=trace.max_steps or 1_000_000,  # training ends with the log, if that comes first
            gradient_accumulation_steps=trace.accumulation,
            accelerator_config={"split_batches": True},  # (1) else ranks get different batches
            ignore_data_skip=True,  # (2) the loader goes on where its own state says
            save_strategy="no",
            report_to="none",
        )
        loader = open_loader(trace)
        trainer = RecordedTrainer(model=TinyContrast(), args=arguments, curated=loader)  # (3) CuratedTrainer
        trainer.train()
    loader.close()


if __name__ == "__main__":
    main()
