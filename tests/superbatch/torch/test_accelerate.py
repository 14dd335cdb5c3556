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
from superbatch.torch import CuratedLoader
from tests.superbatch.torch.world import NUM_BATCHES, in_memory, own_uids, to_sample, uids_of

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
