"""An IterableDataset of ready local batches: every worker follows the log itself; else as train_ddp.py.

    SUPERBATCH_URL=http://127.0.0.1:8000 SUPERBATCH_JOB=JOB SUPERBATCH_TOKEN=TOKEN SUPERBATCH_NUM_WORKERS=2 \\
        torchrun --nproc-per-node 2 examples/trainers/train_iterable.py
"""

from __future__ import annotations

import torch
from tiny_pairs import TinyContrast, open_loader, record
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from superbatch.conformance import Trace


def main() -> None:
    """Train on every batch of the job, one part of each per rank."""
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    model = DistributedDataParallel(TinyContrast())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trace = Trace.from_environment()
    loader = open_loader(trace, style="iterable")
    for batch in loader:
        held = batch.pop("superbatch")
        is_last = held.micro == trace.accumulation - 1
        model.require_backward_grad_sync = is_last
        (model(**batch)["loss"] / trace.accumulation).backward()
        if is_last:
            optimizer.step()
            optimizer.zero_grad()
        loader.trained(held)
        record(trace, loader, held)
        if trace.is_finished:
            break
    loader.close()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
