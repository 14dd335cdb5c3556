"""CuratedLoader in one process: what it yields, what it reports, where it resumes, what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import HistoryChanged, InvalidInput, ServiceError, UnreadableExample
from superbatch.reading import Example
from superbatch.torch import CuratedBatchSampler, CuratedLoader, Share, Workers
from superbatch.torch.dataset import ExampleDataset
from superbatch.torch.opening import OpenLog
from superbatch.torch.window import BatchWindow
from tests.superbatch.torch.world import NUM_BATCHES, B, in_memory, own_uids, state_at, to_sample, uids_of


def test_it_yields_the_ranks_rows_in_the_order_of_the_log(open_log: OpenLog, job: SampleJob) -> None:
    loader = CuratedLoader(open_log, to_sample, rank=1, world_size=3, accumulation=2)
    seen = 0
    for number, batch in enumerate(loader):
        seq, micro = divmod(number, 2)
        wanted = own_uids(job, seq, 1, world_size=3, accumulation=2, micro=micro)
        held = batch["superbatch"]
        assert uids_of(batch) == wanted == list(held.uids)  # type: ignore[attr-defined]
        assert (held.seq, held.micro) == (seq, micro)  # type: ignore[attr-defined]
        loader.trained(batch)
        assert loader.trained_seq == seq + micro
        seen += 1
    assert seen == 2 * NUM_BATCHES
    assert loader.is_finished
    assert loader.state_dict() == state_at(job, NUM_BATCHES)
    loader.close()


def test_it_registers_and_reports_on_rank_0_alone(service: SampleService) -> None:
    open_log = in_memory(service)
    workers = Workers(num_workers=2, prefetch_factor=3, multiprocessing_context="fork")
    loaders = [
        CuratedLoader(open_log, to_sample, name="t", rank=rank, world_size=2, accumulation=2, workers=workers)
        for rank in (1, 0)
    ]
    loaders[0].trained(next(iter(loaders[0])))
    assert service.registry.reports == {}, "rank 1 only reads"
    loaders[1].trained_log  # noqa: B018 # opens the log
    report = service.registry.reports["t"]
    assert (report["world_size"], report["accumulation"], report["read_ahead"]) == (2, 2, 4)
    for loader in loaders:
        loader.close()


def test_what_is_trained_and_saved_is_reported(service: SampleService) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t")
    items = iter(loader)
    for _ in range(4):
        loader.trained(next(items))
    state = loader.state_dict()
    loader.trained(next(items))
    loader.saved(state)
    report = service.registry.reports["t"]
    assert (report["trained_seq"], report["durable_seq"]) == (5, 4)
    with pytest.raises(InvalidInput, match="only trained batches can be saved"):
        loader.saved({**state, "next_seq": 6})
    loader.close()


def test_resume_rewinds_at_the_service(service: SampleService, job: SampleJob) -> None:
    first = CuratedLoader(in_memory(service), to_sample, name="t")
    for _, batch in zip(range(6), first, strict=False):
        first.trained(batch)
    first.close()
    again = CuratedLoader(in_memory(service), to_sample, name="t")
    again.load_state_dict(state_at(job, 3))
    batch = next(iter(again))
    assert uids_of(batch) == own_uids(job, 3, 0, world_size=1)
    assert service.registry.reports["t"]["trained_seq"] == 3
    again.close()


def test_a_run_that_forgot_its_state_is_refused_unless_it_says_rewind(service: SampleService) -> None:
    first = CuratedLoader(in_memory(service), to_sample, name="t")
    first.trained(next(iter(first)))
    first.close()
    with pytest.raises(ServiceError, match="went_back"):
        next(iter(CuratedLoader(in_memory(service), to_sample, name="t")))
    assert next(iter(CuratedLoader(in_memory(service), to_sample, name="t", rewind=True)))["superbatch"].seq == 0  # type: ignore[attr-defined]


def test_the_state_of_another_job_is_refused(open_log: OpenLog, job: SampleJob) -> None:
    loader = CuratedLoader(open_log, to_sample)
    loader.load_state_dict({**state_at(job, 3), "job": "job_other"})
    with pytest.raises(HistoryChanged, match="its own job"):
        next(iter(loader))


def test_a_state_is_loaded_before_the_loader_begins(open_log: OpenLog, job: SampleJob) -> None:
    loader = CuratedLoader(open_log, to_sample)
    iter(loader)  # Lightning does this to see whether it can, and drops it
    loader.load_state_dict(state_at(job, 3))
    assert next(iter(loader))["superbatch"].seq == 3  # type: ignore[attr-defined]
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(InvalidInput, match="before it begins; got a state at batch 4"):
        loader.load_state_dict(state_at(job, 4))
    loader.close()


def test_a_batch_without_its_mark_is_refused(open_log: OpenLog) -> None:
    loader = CuratedLoader(open_log, to_sample)
    batch = next(iter(loader))
    del batch["superbatch"]
    with pytest.raises(InvalidInput, match=r"batch\.pop\('superbatch'\)"):
        loader.trained(batch)
    loader.close()


def test_another_iteration_gives_the_untrained_batches_again(open_log: OpenLog) -> None:
    loader = CuratedLoader(open_log, to_sample)
    assert len([batch for batch, _ in zip(loader, range(3), strict=False)]) == 3
    loader.trained(next(iter(loader)))
    assert next(iter(loader))["superbatch"].seq == 1  # type: ignore[attr-defined]
    loader.close()


class FakeAccelerator:
    """What split_by asks of an Accelerator; it cuts batches as accelerate's BatchSamplerShard does."""

    dispatch_batches: bool | None = None
    num_processes, process_index = 2, 1

    def __init__(self, *, split_batches: bool) -> None:
        self.split_batches = split_batches

    def prepare_data_loader(self, data_loader: Any) -> Any:
        sampler, dataset, collate = data_loader.batch_sampler, data_loader.dataset, data_loader.collate_fn
        half = sampler.batch_size // 2
        return (collate(dataset.__getitems__(found[half:])) for found in sampler)


def test_a_splitting_framework_gets_whole_batches_and_returns_parts(open_log: OpenLog, job: SampleJob) -> None:
    loader = CuratedLoader(open_log, to_sample).split_by(FakeAccelerator(split_batches=True))
    for seq, batch in zip(range(4), loader, strict=False):
        assert uids_of(batch) == own_uids(job, seq, 1, world_size=2)
        loader.trained(batch)
    loader.close()


def test_accelerate_without_split_batches_is_refused(open_log: OpenLog) -> None:
    with pytest.raises(InvalidInput, match="split_batches=True"):
        CuratedLoader(open_log, to_sample).split_by(FakeAccelerator(split_batches=False))
    dispatching = FakeAccelerator(split_batches=True)
    dispatching.dispatch_batches = True
    with pytest.raises(InvalidInput, match="dispatch_batches"):
        CuratedLoader(open_log, to_sample).split_by(dispatching)
    with pytest.raises(InvalidInput, match='style="map"'):
        CuratedLoader(open_log, to_sample, style="iterable").split_by(FakeAccelerator(split_batches=True))


class Rows:
    """A reader that must not be asked."""

    def read_rows(self, rows: object, shard_table: object) -> list[Example]:
        raise AssertionError("rows were read although they are not this rank's")


@pytest.mark.parametrize("wrong", ["whole", "other", "reversed", "mixed", "short"])
def test_rows_cut_in_any_other_way_are_refused_before_they_are_read(
    open_log: OpenLog, job: SampleJob, wrong: str
) -> None:
    share = Share(0, 2)
    dataset = ExampleDataset(Rows(), job.shard_table, to_sample, share=share)
    with open_log(state=None, read_ahead=0) as log:
        first, second = (
            found for _, found in zip(range(2), CuratedBatchSampler(BatchWindow(log), share=Share(), b=B), strict=False)
        )
    half = B // 2
    given = {
        "whole": first,
        "other": first[half:],
        "reversed": first[:half][::-1],
        "mixed": [*first[: half // 2], *second[half // 2 : half]],
        "short": first[: half - 1],
    }[wrong]
    with pytest.raises(InvalidInput, match="split_batches=True"):
        dataset.__getitems__(given)
    with pytest.raises(InvalidInput, match="as batch_sampler="):
        dataset[first[0]]


def test_an_undecodable_row_is_named_and_never_dropped(open_log: OpenLog, job: SampleJob) -> None:
    bad = job.batches[2][5]

    def decode(example: Example) -> dict[str, object]:
        if example.uid == bad:
            raise OSError("broken data stream")
        return to_sample(example)

    loader = CuratedLoader(open_log, decode)
    items = iter(loader)
    for _ in range(2):
        loader.trained(next(items))
    with pytest.raises(UnreadableExample, match=f"batch 2, slot 5, row .*{bad.hex()}.*pool-.*no row was dropped"):
        next(items)
    assert loader.state_dict() == state_at(job, 2)
    loader.close()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_unreadable_batch_is_skipped_whole_and_reported(
    service: SampleService, job: SampleJob, accumulation: int
) -> None:
    bad = job.batches[2][B - 1]  # in the last micro-step: the first one must not be trained either

    def decode(example: Example) -> dict[str, object]:
        if example.uid == bad and example.slot == B - 1:
            raise OSError("broken data stream")
        return to_sample(example)

    loader = CuratedLoader(in_memory(service), decode, name="t", accumulation=accumulation, skip_unreadable=1)
    seqs = []
    for batch in loader:
        seqs.append(batch["superbatch"].seq)  # type: ignore[attr-defined]
        loader.trained(batch)
    assert seqs == [seq for seq in range(NUM_BATCHES) if seq != 2 for _ in range(accumulation)]
    assert list(service.registry.skipped) == [2]
    assert "broken data stream" in service.registry.skipped[2]
    assert loader.state_dict() == state_at(job, NUM_BATCHES)
    loader.close()


def test_a_transform_that_always_fails_ends_the_run(open_log: OpenLog) -> None:
    def decode(example: Example) -> dict[str, object]:
        raise TypeError("a mistake in the transform")

    with pytest.raises(UnreadableExample, match="at most 2 unreadable batches are skipped"):
        list(CuratedLoader(open_log, decode, skip_unreadable=2))


def test_ranks_without_a_process_group_cannot_skip_together(open_log: OpenLog) -> None:
    with pytest.raises(InvalidInput, match="init_process_group"):
        next(iter(CuratedLoader(open_log, to_sample, rank=0, world_size=2, skip_unreadable=1)))


def test_an_iterable_style_takes_no_option_that_it_cannot_keep(open_log: OpenLog) -> None:
    for options in ({"skip_unreadable": 1}, {"workers": Workers(num_workers=1, persistent_workers=True)}):
        with pytest.raises(InvalidInput, match='style="map"'):
            CuratedLoader(open_log, to_sample, style="iterable", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("transform", "collate_fn", "rule"),
    [
        (lambda example: torch.zeros(1), None, "a transform must return a dict"),
        (to_sample, lambda samples: samples, "a collate_fn must return a dict"),
        (lambda example: {"superbatch": 1}, None, "without the key 'superbatch'"),
    ],
)
def test_samples_and_batches_are_dicts(open_log: OpenLog, transform: Any, collate_fn: Any, rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule):
        next(iter(CuratedLoader(open_log, transform, collate_fn=collate_fn)))


def test_a_collate_of_the_users_own_is_used(open_log: OpenLog) -> None:
    def only_captions(samples: list[Mapping[str, object]]) -> dict[str, object]:
        return {"captions": [sample["caption"] for sample in samples]}

    batch = next(iter(CuratedLoader(open_log, to_sample, collate_fn=only_captions)))
    assert sorted(batch) == ["captions", "superbatch"]


def test_rank_and_world_size_belong_together(open_log: OpenLog) -> None:
    with pytest.raises(InvalidInput, match="belong together"):
        next(iter(CuratedLoader(open_log, to_sample, rank=1)))
