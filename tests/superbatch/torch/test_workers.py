"""CuratedLoader with real worker processes: forked, spawned and kept, in both styles."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest

from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.formats.errors import UnreadableExample
from superbatch.log import BatchLog
from superbatch.reading import Example
from superbatch.torch import CuratedLoader, Workers
from superbatch.torch.opening import OpenLog
from tests.superbatch.torch.world import NUM_BATCHES, TOKEN, own_uids, state_at, to_sample, uids_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on two cores


def fails_at_row(example: Example, *, uid: bytes) -> dict[str, object]:
    if example.uid == uid:
        raise OSError("broken data stream")
    return to_sample(example)


def check(loader: CuratedLoader, job: SampleJob, seqs: range, *, accumulation: int = 1) -> None:
    """Train these batches on rank 1 of 2, each held against the contract."""
    items = iter(loader)
    for seq, micro in product(seqs, range(accumulation)):
        batch = next(items)
        assert uids_of(batch) == own_uids(job, seq, 1, world_size=2, accumulation=accumulation, micro=micro)
        loader.trained(batch)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_forked_workers_keep_the_order_in_the_map_style(open_log: OpenLog, job: SampleJob, num_workers: int) -> None:
    workers = Workers(num_workers=num_workers, multiprocessing_context="fork")
    loader = CuratedLoader(open_log, to_sample, rank=1, world_size=2, workers=workers)
    check(loader, job, range(NUM_BATCHES))
    assert loader.state_dict() == state_at(job, NUM_BATCHES)
    loader.close()


@pytest.mark.parametrize(("num_workers", "accumulation"), [(0, 1), (1, 2), (2, 1), (3, 2)])
def test_workers_that_follow_the_log_keep_its_order(
    url: str, job: SampleJob, num_workers: int, accumulation: int
) -> None:
    open_log = partial(BatchLog, url, JOB, token=TOKEN, wait_s=1.0)
    options = {"rank": 1, "world_size": 2, "accumulation": accumulation, "style": "iterable"}
    workers = Workers(num_workers=num_workers, multiprocessing_context="fork")
    loader = CuratedLoader(open_log, to_sample, workers=workers, **options)  # type: ignore[arg-type]
    loader.load_state_dict(state_at(job, 5))
    check(loader, job, range(5, 9), accumulation=accumulation)
    check(loader, job, range(9, NUM_BATCHES), accumulation=accumulation)  # a second iteration goes on
    assert loader.state_dict() == state_at(job, NUM_BATCHES)
    assert list(loader) == []
    loader.close()


def test_kept_workers_begin_a_second_iteration_at_the_first_untrained_batch(open_log: OpenLog, job: SampleJob) -> None:
    workers = Workers(num_workers=2, multiprocessing_context="fork", persistent_workers=True)
    loader = CuratedLoader(open_log, to_sample, rank=1, world_size=2, workers=workers)
    check(loader, job, range(3))
    check(loader, job, range(3, NUM_BATCHES))
    loader.close()


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_spawned_workers_read_the_same(url: str, job: SampleJob, style: str) -> None:
    open_log = partial(BatchLog, url, JOB, token=TOKEN, wait_s=1.0)
    workers = Workers(num_workers=1, multiprocessing_context="spawn")
    loader = CuratedLoader(open_log, to_sample, rank=1, world_size=2, workers=workers, style=style)  # type: ignore[arg-type]
    check(loader, job, range(4))
    loader.close()


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_an_error_in_a_worker_keeps_its_name(url: str, job: SampleJob, style: str) -> None:
    bad = job.batches[1][14]
    open_log = partial(BatchLog, url, JOB, token=TOKEN, wait_s=1.0)
    workers = Workers(num_workers=1, multiprocessing_context="fork")
    transform = partial(fails_at_row, uid=bad)
    loader = CuratedLoader(open_log, transform, rank=1, world_size=2, workers=workers, style=style)  # type: ignore[arg-type]
    with pytest.raises(UnreadableExample, match=f"batch 1, slot 14, .*{bad.hex()}"):
        check(loader, job, range(4))
    assert loader.state_dict() == state_at(job, 1)
    loader.close()
