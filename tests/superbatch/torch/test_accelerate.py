"""A real Accelerator in one process: accumulation, its own checkpoints, resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState

from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput
from superbatch.reading import Example
from superbatch.torch import CuratedLoader
from tests.superbatch.torch.world import NUM_BATCHES, B, in_memory, own_uids, to_sample, uids_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the framework


@pytest.fixture
def accelerator(tmp_path: Path) -> Iterator[Accelerator]:
    """One accelerator; it keeps its state in the classes."""
    yield Accelerator(
        cpu=True, gradient_accumulation_steps=2, dataloader_config=DataLoaderConfiguration(split_batches=True)
    )
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_step_is_a_batch_and_the_state_is_in_the_checkpoint(
    service: SampleService, job: SampleJob, accelerator: Accelerator, tmp_path: Path
) -> None:
    weight = torch.nn.Linear(1, 1)
    model, optimizer = accelerator.prepare(weight, torch.optim.SGD(weight.parameters(), lr=0.1))
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=2).prepared_by(accelerator)
    accelerator.register_for_checkpointing(loader)
    synced = []
    for number, batch in enumerate(loader):
        seq, micro = divmod(number, 2)
        assert uids_of(batch) == own_uids(job, seq, 0, world_size=1, accumulation=2, micro=micro)
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1)).sum())
            optimizer.step()
            optimizer.zero_grad()
        synced.append(accelerator.sync_gradients)
        loader.trained(batch)
        if (seq, micro) == (6, 1):
            accelerator.save_state(str(tmp_path / "saved"))
    assert synced == [False, True] * NUM_BATCHES
    report = service.registry.reports["t"]
    assert (report["trained_seq"], report["read_ahead"]) == (NUM_BATCHES, 1)
    loader.close()

    again = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=2).prepared_by(accelerator)
    accelerator._custom_objects[:] = [again]  # as a new process registers it
    accelerator.load_state(str(tmp_path / "saved"))
    assert uids_of(next(iter(again))) == own_uids(job, 7, 0, world_size=1, accumulation=2)
    again.close()


def micro_steps(loader: CuratedLoader, accelerator: Accelerator, *, num: int, own_steps: int = 0) -> list[list[int]]:
    """Train some micro-steps; return the seqs of each optimizer step. `own_steps` more accumulate() come in between."""
    weight = torch.nn.Linear(1, 1)
    model, optimizer = accelerator.prepare(weight, torch.optim.SGD(weight.parameters(), lr=0.1))
    steps: list[list[int]] = [[]]
    for number, batch in enumerate(loader, start=1):
        steps[-1].append(batch["superbatch"].seq)  # type: ignore[attr-defined]
        for _ in range(own_steps + 1):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.ones(1)).sum())
                optimizer.step()
                optimizer.zero_grad()
        if accelerator.sync_gradients:
            steps.append([])
        loader.trained(batch)
        if number == num:
            break
    return steps


def test_a_break_inside_a_batch_does_not_shift_the_steps(service: SampleService, accelerator: Accelerator) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, accumulation=2).prepared_by(accelerator)
    assert micro_steps(loader, accelerator, num=3) == [[0, 0], [1]]
    assert micro_steps(loader, accelerator, num=4) == [[1, 1], [2, 2], []]
    loader.close()


def test_steps_that_are_not_the_batches_end_the_run_at_the_first(
    service: SampleService, accelerator: Accelerator
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, accumulation=2).prepared_by(accelerator)
    with pytest.raises(InvalidInput, match="got one inside batch 0, after micro-step 0 of 2"):
        micro_steps(loader, accelerator, num=4, own_steps=1)
    assert loader.trained_seq == 0
    loader.close()
    loader = CuratedLoader(in_memory(service), to_sample, accumulation=2).prepared_by(accelerator)
    items = iter(loader)
    loader.trained_log.trained(next(items)["superbatch"])  # type: ignore[arg-type] # past the check
    accelerator.sync_gradients = False
    with pytest.raises(InvalidInput, match="got none at the end of batch 0, after micro-step 1 of 2"):
        loader.trained(next(items))
    loader.close()


def test_another_accumulation_than_the_loaders_is_refused(service: SampleService, accelerator: Accelerator) -> None:
    for accumulation in (1, 4):
        with pytest.raises(InvalidInput, match=f"gradient_accumulation_steps=2 with accumulation={accumulation}"):
            CuratedLoader(in_memory(service), to_sample, accumulation=accumulation).prepared_by(accelerator)


def test_the_last_batch_is_one_step_also_where_batches_are_held_back(
    service: SampleService, job: SampleJob, accelerator: Accelerator
) -> None:
    bad = job.batches[2][B - 1]

    def decode(example: Example) -> dict[str, object]:
        if example.uid == bad and example.slot == B - 1:
            raise OSError("broken data stream")
        return to_sample(example)

    loader = CuratedLoader(in_memory(service), decode, name="t", accumulation=2, skip_unreadable=1)
    found = micro_steps(loader.prepared_by(accelerator), accelerator, num=1000)
    assert found == [*([seq, seq] for seq in range(NUM_BATCHES) if seq != 2), []]
    loader.close()


def test_a_loader_that_is_prepared_late_or_twice_counts_accelerate_once(
    service: SampleService, accelerator: Accelerator
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=2, look_ahead=1)
    loader.state_dict()
    assert loader.log.read_ahead == 1
    for _ in range(2):
        loader.prepared_by(accelerator)
    loader.takes_ahead("another", 1)
    next(iter(loader))
    assert service.registry.reports["t"]["read_ahead"] == 2  # three micro-steps
    loader.close()
