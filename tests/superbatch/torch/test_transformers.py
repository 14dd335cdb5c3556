"""CuratedTrainer, a real HF Trainer, in one process: order, accumulation, checkpoints, resume, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

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


class Uncurated(Counts):
    """The same model on data of its own."""

    def forward(self, uid: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"loss": self.weight.sum() + 0 * uid.sum()}


def test_a_checkpoint_from_before_the_curation_begins_with_the_log(service: SampleService, tmp_path: Path) -> None:
    rows = [{"uid": torch.zeros(16)}] * 8
    options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    arguments = TrainingArguments(max_steps=3, save_steps=2, **options)  # type: ignore[arg-type]
    Trainer(model=Uncurated(), args=arguments, train_dataset=rows).train()  # type: ignore[arg-type]
    found = trainer(service, tmp_path, max_steps=6, save_strategy="steps", save_steps=2)
    found.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert found.trained == [(seq, 0) for seq in range(4)]
    found.curated.close()
    again = trainer(service, tmp_path, max_steps=7)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.trained == [(seq, 0) for seq in range(2, 5)]
    again.curated.close()


def test_a_step_of_other_micro_steps_than_those_of_a_batch_ends_the_run(service: SampleService, tmp_path: Path) -> None:
    found = trainer(service, tmp_path, accumulation=2)
    found.args.gradient_accumulation_steps = 1  # after the check
    with pytest.raises(InvalidInput, match="an optimizer step must be one batch; got one of"):
        found.train()
    found.curated.close()


def test_several_devices_in_one_process_are_refused(service: SampleService, tmp_path: Path) -> None:
    plain = trainer(service, tmp_path)
    plain.args._n_gpu = 2  # as on a machine with two
    with pytest.raises(InvalidInput, match=r"got n_gpu=2, .* torchrun --nproc-per-node"):
        CuratedTrainer(model=Counts(), args=plain.args, curated=plain.curated)


def test_two_trainers_of_one_loader_count_what_they_take_once(service: SampleService, tmp_path: Path) -> None:
    first = trainer(service, tmp_path, accumulation=2, max_steps=2)
    second = Watched(model=Counts(), args=first.args, curated=first.curated)
    second.train()
    assert second.trained == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert service.registry.reports["t"]["read_ahead"] == 2
    second.curated.close()
