"""Hugging Face accelerate: it cuts every batch over its processes and moves it to its device; (1) to (4) are ours.

    SUPERBATCH_URL=http://127.0.0.1:8000 SUPERBATCH_JOB=JOB SUPERBATCH_TOKEN=TOKEN \\
        torchrun --nproc-per-node 2 examples/trainers/train_accelerate.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from tiny_pairs import TinyContrast, open_loader, record

from superbatch.conformance import Trace


def main() -> None:
    """Train on every batch of the job, one part of each per process."""
    trace = Trace.from_environment()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without a GPU, accelerate is else alone in each process
        gradient_accumulation_steps=trace.accumulation,
        dataloader_config=DataLoaderConfiguration(split_batches=True),  # (1) else processes get different batches
    )
    torch.set_num_threads(1)
    model = TinyContrast()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    loader = open_loader(trace).prepared_by(accelerator)  # (2) in place of accelerator.prepare(loader)
    for batch in loader:
        held = batch.pop("superbatch")  # (3) what it holds: seq, micro, uids
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        loader.trained(held)  # (4) on every process; process 0 reports it
        record(trace, loader, held)
        if trace.is_finished:
            break
    loader.close()
    accelerator.end_training()


if __name__ == "__main__":
    main()
