"""CuratedTrainer, a real HF Trainer, in one process: order, accumulation, checkpoints, resume, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput
from superbatch.torch import BatchSlice, CuratedLoader
from superbatch.torch.transformers import CuratedTrainer
from tests.superbatch.torch.world import NUM_BATCHES, in_memory, own_uids, to_sample

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks


class Counts(torch.nn.Module):
    """A model that learns nothing and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[bytes]] = []

    def forward(self, uid: torch.Tensor, caption: list[str]) -> dict[str, torch.Tensor]:
        self.seen.append([bytes(row.tolist()) for row in uid])
        return {"loss": self.weight.sum()}


class Watched(CuratedTrainer):
    """Remembers what it was told."""

    trained: list[tuple[int, int]]

    def on_trained(self, held: BatchSlice) -> None:
        self.__dict__.setdefault("trained", []).append((held.seq, held.micro))


def trainer(service: SampleService, folder: Path, *, accumulation: int = 1, **options: object) -> Watched:
    plain: dict[str, object] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 10**9,  # so many empty steps after the end of the log would not end in time
        "gradient_accumulation_steps": accumulation,
        "accelerator_config": {"split_batches": True},
        "ignore_data_skip": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=accumulation)
    arguments = TrainingArguments(**{**plain, **options})  # type: ignore[arg-type]
    return Watched(model=Counts(), args=arguments, curated=loader)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_the_log_and_stops_at_its_end(
    service: SampleService, job: SampleJob, tmp_path: Path, accumulation: int
) -> None:
    found = trainer(service, tmp_path, accumulation=accumulation)
    found.train()
    steps = [(seq, micro) for seq in range(NUM_BATCHES) for micro in range(accumulation)]
    assert found.trained == steps
    assert found.model.seen == [  # type: ignore[union-attr]
        own_uids(job, seq, 0, world_size=1, accumulation=accumulation, micro=micro) for seq, micro in steps
    ]
    assert found.state.global_step == NUM_BATCHES
    report = service.registry.reports["t"]
    assert (report["trained_seq"], report["read_ahead"]) == (NUM_BATCHES, 2)
    found.curated.close()


def test_a_checkpoint_resumes_at_the_batch_after_the_last_trained(
    service: SampleService, job: SampleJob, tmp_path: Path
) -> None:
    first = trainer(service, tmp_path, max_steps=8, save_strategy="steps", save_steps=3)
    first.train()
    assert service.registry.reports["t"]["trained_seq"] == 8
    assert service.registry.reports["t"]["durable_seq"] in (6, 8)
    first.curated.close()
    for step in (3, 6):
        again = trainer(service, tmp_path, max_steps=step + 2)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert again.trained == [(step, 0), (step + 1, 0)]
        assert again.curated.state_dict() == job.state_at(step + 2)
        again.curated.close()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"ignore_data_skip": False}, "ignore_data_skip=True"),
        ({"max_steps": -1}, "the length of a log is not known"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps=4 with accumulation=1"),
    ],
)
def test_arguments_that_would_lose_batches_are_refused(
    service: SampleService, tmp_path: Path, options: dict[str, object], rule: str
) -> None:
    with pytest.raises(InvalidInput, match=rule):
        trainer(service, tmp_path, **options)
