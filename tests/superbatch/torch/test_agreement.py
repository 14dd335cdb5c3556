"""What ranks know of each other: processes that a launcher started must not train alone, and decide alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from torch import distributed
from torch.multiprocessing import start_processes

from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput, RevokedBatch
from superbatch.log import BatchLog
from superbatch.torch import CuratedLoader, Share
from superbatch.torch.agreement import Agreement
from tests.superbatch.torch.world import NUM_BATCHES, TOKEN, in_memory, to_sample


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of two processes of torchrun that have not joined a process group."""
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.usefixtures("launched")
def test_a_process_that_does_not_know_of_the_others_is_refused(service: SampleService) -> None:
    with pytest.raises(InvalidInput, match=r"WORLD_SIZE=2 .* knows of 1\. Call torch\.distributed.init_process_group"):
        next(iter(CuratedLoader(in_memory(service), to_sample)))
    assert len(next(iter(CuratedLoader(in_memory(service), to_sample, rank=1, world_size=2)))["caption"]) == 12  # type: ignore[arg-type]


def test_an_accelerator_that_is_alone_in_each_process_is_refused(
    service: SampleService, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    try:
        loader = CuratedLoader(in_memory(service), to_sample)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InvalidInput, match=r"WORLD_SIZE=2 .* knows of 1. On CPUs use Accelerator\(cpu=True\)"):
            loader.prepared_by(accelerator)
        monkeypatch.setenv("WORLD_SIZE", "1")
        loader.prepared_by(accelerator)
    finally:
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_single_rank_decides_alone() -> None:
    agreement = Agreement(Share())
    assert agreement.on_reason("why") == "why"
    assert agreement.on_reason(None) is None
    assert agreement.of_rank_0(lambda: 7) == 7


def one_of_two(rank: int, meeting: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    agreement = Agreement(Share(rank, 2))
    assert agreement.on_reason("mine" if rank else None) == "mine"
    asked: list[int] = []
    assert agreement.of_rank_0(lambda: asked.append(rank) or "found") == "found"  # type: ignore[func-returns-value]
    assert asked == ([] if rank else [0])

    def fail() -> None:
        raise RevokedBatch(3, "excluded")

    with pytest.raises(RevokedBatch, match="batch 3 was revoked"):
        agreement.of_rank_0(fail)
    distributed.destroy_process_group()


def goes_on(rank: int, meeting: str, url: str, state: dict[str, object]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    open_log = partial(BatchLog, url, JOB, token=TOKEN, wait_s=1.0)
    loader = CuratedLoader(open_log, to_sample, name="t", skip_unreadable=1)
    loader.load_state_dict(state)
    seqs = []
    for batch in loader:
        seqs.append(batch["superbatch"].seq)  # type: ignore[attr-defined]
        loader.trained(batch)
    assert seqs == [18, 19, 21, 22, 23]
    loader.close()
    distributed.destroy_process_group()


def test_two_ranks_resume_before_a_batch_that_they_skipped(
    service: SampleService, job: SampleJob, url: str, tmp_path: Path
) -> None:
    service.registry.skipped[20] = "one rank could not read it"
    start_processes(goes_on, (str(tmp_path / "meeting"), url, job.state_at(18)), nprocs=2, start_method="fork")
    assert service.registry.reports["t"]["trained_seq"] == NUM_BATCHES


def test_two_ranks_get_what_rank_0_found_or_its_error(tmp_path: Path) -> None:
    start_processes(one_of_two, (str(tmp_path / "meeting"),), nprocs=2, start_method="fork")
