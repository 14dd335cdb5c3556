"""A log that cannot go on: what was published before is trained, whatever reads ahead; then the error comes."""

from __future__ import annotations

import dataclasses
from collections import deque
from functools import partial

import pytest

from superbatch.conformance.faults import ServerFaults
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import RevokedBatch
from superbatch.log import BatchLog
from superbatch.torch import CuratedLoader, Workers
from superbatch.torch.handed_out import HandedOut
from tests.superbatch.torch.world import TOKEN, in_memory, state_at, to_sample

WITHDRAWN = 9


@pytest.fixture
def service(job: SampleJob) -> SampleService:
    return SampleService(job, token=TOKEN, faults=dataclasses.replace(ServerFaults(), revoked_seq=WITHDRAWN))


def train(loader: CuratedLoader) -> None:
    for batch in loader:
        loader.trained(batch)


@pytest.mark.parametrize(("num_workers", "accumulation"), [(0, 1), (1, 2), (2, 1)])
def test_workers_do_not_take_batches_from_before_an_error_with_them(
    service: SampleService, job: SampleJob, num_workers: int, accumulation: int
) -> None:
    workers = Workers(num_workers=num_workers, multiprocessing_context="fork")
    loader = CuratedLoader(in_memory(service), to_sample, accumulation=accumulation, workers=workers)
    for _ in range(2):  # a second iteration says the same
        with pytest.raises(RevokedBatch) as caught:
            train(loader)
        assert caught.value.seq == WITHDRAWN
    assert loader.state_dict() == state_at(job, WITHDRAWN)
    assert not loader.is_finished
    loader.close()


def test_an_iterable_style_raises_the_same_error(url: str, job: SampleJob) -> None:
    workers = Workers(num_workers=2, multiprocessing_context="fork")
    open_log = partial(BatchLog, url, JOB, token=TOKEN, wait_s=1.0)
    loader = CuratedLoader(open_log, to_sample, style="iterable", workers=workers)
    with pytest.raises(RevokedBatch):
        train(loader)
    assert loader.state_dict() == state_at(job, WITHDRAWN)
    loader.close()


@pytest.mark.parametrize(("num_workers", "accumulation"), [(0, 1), (0, 2), (2, 1)])
def test_a_framework_that_takes_one_more_trains_it_before_the_error(
    service: SampleService, job: SampleJob, num_workers: int, accumulation: int
) -> None:
    workers = Workers(num_workers=num_workers, multiprocessing_context="fork")
    loader = CuratedLoader(in_memory(service), to_sample, accumulation=accumulation, workers=workers, look_ahead=1)
    taken: deque[object] = deque()

    def train_late() -> None:
        for batch in loader:
            taken.append(batch)
            if len(taken) > 1:
                loader.trained(taken.popleft())  # type: ignore[arg-type]
        loader.trained(taken.popleft())  # type: ignore[arg-type]

    with pytest.raises(RevokedBatch):
        train_late()
    assert not taken
    assert loader.state_dict() == state_at(job, WITHDRAWN)
    loader.close()


def test_who_takes_more_than_was_said_or_trains_nothing_gets_the_error_from_the_iteration(
    service: SampleService,
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, look_ahead=1)
    with pytest.raises(RevokedBatch):
        list(loader)
    loader.close()


def test_an_error_inside_a_batch_is_raised_at_once() -> None:
    def batches() -> object:
        yield {}
        raise OSError("unreadable")

    for accumulation, is_raised in ((2, True), (1, False)):
        handed_out = HandedOut(ahead=1, accumulation=accumulation)
        items = handed_out.pass_on(batches())  # type: ignore[arg-type]
        next(items)
        if is_raised:
            with pytest.raises(OSError, match="unreadable"):
                next(items)
        else:
            assert list(items) == []
            with pytest.raises(OSError, match="unreadable"):
                handed_out.trained()
