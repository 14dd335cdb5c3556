"""Where a loader begins: a state loaded late, a second iteration, withdrawn batches, a job trained once more."""

from __future__ import annotations

import pytest

from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput, RevokedBatch, ServiceError
from superbatch.reading import Example
from superbatch.torch import CuratedLoader
from superbatch.torch.opening import OpenLog
from tests.superbatch.torch.world import NUM_BATCHES, B, in_memory, state_at, to_sample


def seq_of(batch: object) -> int:
    return batch["superbatch"].seq  # type: ignore[index,no-any-return]


def train_all(loader: CuratedLoader) -> list[int]:
    seqs = []
    for batch in loader:
        seqs.append(seq_of(batch))
        loader.trained(batch)
    loader.close()
    return seqs


def test_asking_for_the_state_neither_registers_nor_keeps_another_from_being_loaded(
    service: SampleService, job: SampleJob
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t")
    assert loader.state_dict() == state_at(job, 0)
    assert service.registry.reports == {}
    loader.load_state_dict(state_at(job, 5))
    assert loader.state_dict() == state_at(job, 5)
    assert loader.log.manifest().policy.b == B  # opens it
    loader.load_state_dict(state_at(job, 7))
    assert seq_of(next(iter(loader))) == 7
    assert service.registry.reports["t"]["trained_seq"] == 7
    with pytest.raises(InvalidInput, match="before it begins; got a state at batch 5 at batch 7"):
        loader.load_state_dict(state_at(job, 5))
    loader.close()


@pytest.mark.parametrize("num_trained", [1, 2, 3])
def test_a_break_inside_a_batch_begins_it_again(open_log: OpenLog, job: SampleJob, num_trained: int) -> None:
    loader = CuratedLoader(open_log, to_sample, accumulation=2)
    for _, batch in zip(range(num_trained), loader, strict=False):
        loader.trained(batch)
    whole = num_trained // 2
    assert loader.state_dict() == state_at(job, whole)
    assert train_all(loader) == [seq for seq in range(whole, NUM_BATCHES) for _ in range(2)]


def test_what_a_framework_takes_ahead_counts_once_and_also_when_it_comes_late(service: SampleService) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t", look_ahead=2)
    assert loader.log.read_ahead == 2
    for _ in range(2):
        loader.takes_ahead("one", 3)
    loader.takes_ahead("another", 1)
    next(iter(loader))
    assert service.registry.reports["t"]["read_ahead"] == 6
    loader.takes_ahead("one", 3)
    with pytest.raises(InvalidInput, match="4 micro-steps that one takes ahead at batch 0"):
        loader.takes_ahead("one", 4)
    loader.close()


def test_a_run_resumes_before_a_batch_that_it_skipped(service: SampleService, job: SampleJob) -> None:
    bad = job.batches[4][3]

    def decode(example: Example) -> dict[str, object]:
        if example.uid == bad and example.slot == 3:
            raise OSError("broken data stream")
        return to_sample(example)

    first = CuratedLoader(in_memory(service), decode, name="t", skip_unreadable=1)
    for batch in first:
        first.trained(batch)
        if seq_of(batch) == 6:
            break
    first.close()
    assert list(service.registry.skipped) == [4]
    again = CuratedLoader(in_memory(service), to_sample, name="t", skip_unreadable=1)
    again.load_state_dict(state_at(job, 2))
    assert train_all(again) == [2, 3, *range(5, NUM_BATCHES)]
    unprepared = CuratedLoader(in_memory(service), to_sample, name="t")
    unprepared.load_state_dict(state_at(job, 2))
    with pytest.raises(RevokedBatch, match="batch 4 was revoked"):
        train_all(unprepared)
    assert unprepared.state_dict() == state_at(job, 4)
    unprepared.close()


def test_a_finished_job_is_trained_again_by_a_reader_or_with_rewind(service: SampleService) -> None:
    assert train_all(CuratedLoader(in_memory(service), to_sample, name="t")) == list(range(NUM_BATCHES))
    with pytest.raises(ServiceError, match="went_back"):
        train_all(CuratedLoader(in_memory(service), to_sample, name="t"))
    with pytest.raises(ServiceError, match="second_learner"):
        train_all(CuratedLoader(in_memory(service), to_sample, name="other"))
    for _ in range(2):  # by the same reader twice
        again = CuratedLoader(in_memory(service), to_sample, name="other", role="reader")
        assert train_all(again) == list(range(NUM_BATCHES))
        assert service.registry.reports["other"]["role"] == "reader"
    assert train_all(CuratedLoader(in_memory(service), to_sample)) == list(range(NUM_BATCHES))
    assert service.registry.reports["t"]["trained_seq"] == NUM_BATCHES, "readers leave the learner where it is"
    assert train_all(CuratedLoader(in_memory(service), to_sample, name="t", rewind=True)) == list(range(NUM_BATCHES))
