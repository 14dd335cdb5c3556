"""The Lightning callback under a real Trainer: order, accumulation, checkpoints, resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput
from superbatch.torch import CuratedLoader
from superbatch.torch.lightning import CurationCallback
from tests.superbatch.torch.world import NUM_BATCHES, in_memory, own_uids, to_sample, uids_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own hints on workers and loggers


class Counts(pl.LightningModule):
    """A module that learns nothing and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, int, list[bytes]]] = []

    def training_step(self, batch: dict[str, object], batch_idx: int) -> torch.Tensor:
        held = batch["superbatch"]
        self.seen.append((held.seq, held.micro, uids_of(batch)))  # type: ignore[attr-defined]
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(loader: CuratedLoader, folder: Path, **options: object) -> pl.Trainer:
    plain = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "enable_checkpointing": False,
    }
    return pl.Trainer(**{**plain, "callbacks": [CurationCallback(loader)], **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_the_log_and_reports_it(
    service: SampleService, job: SampleJob, tmp_path: Path, accumulation: int
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=accumulation)
    module = Counts()
    trainer(loader, tmp_path, accumulate_grad_batches=accumulation).fit(module, loader)
    assert module.seen == [
        (seq, micro, own_uids(job, seq, 0, world_size=1, accumulation=accumulation, micro=micro))
        for seq in range(NUM_BATCHES)
        for micro in range(accumulation)
    ]
    report = service.registry.reports["t"]
    assert (report["trained_seq"], report["read_ahead"]) == (NUM_BATCHES, 1)
    loader.close()


def test_a_checkpoint_holds_the_state_of_what_was_trained_and_resumes_there(
    service: SampleService, job: SampleJob, tmp_path: Path
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t")
    saves = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    durable: list[object] = []
    reads = pl.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_: durable.append(service.registry.reports["t"]["durable_seq"])
    )
    options = {"enable_checkpointing": True, "callbacks": [CurationCallback(loader), reads, saves]}
    trainer(loader, tmp_path, max_steps=8, **options).fit(Counts(), loader)
    assert service.registry.reports["t"]["trained_seq"] == 8
    assert durable == [0, 0, 0, 0, 0, 0, 3, 3], "a checkpoint counts when the next one begins"
    assert service.registry.reports["t"]["durable_seq"] == 6, "the last checkpoint, reported when training ended"
    loader.close()
    for step in (3, 6):
        again = CuratedLoader(in_memory(service), to_sample, name="t")
        module = Counts()
        trainer(again, tmp_path, max_steps=step + 2).fit(module, again, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert [seq for seq, _, _ in module.seen] == [step, step + 1]
        assert again.state_dict() == job.state_at(step + 2)
        again.close()


def test_another_accumulation_than_the_loaders_is_refused(service: SampleService, tmp_path: Path) -> None:
    loader = CuratedLoader(in_memory(service), to_sample)
    with pytest.raises(InvalidInput, match="accumulate_grad_batches=1 with accumulation=2"):
        trainer(
            loader, tmp_path, callbacks=[CurationCallback(CuratedLoader(in_memory(service), to_sample, accumulation=2))]
        ).fit(Counts(), loader)
    loader.close()
