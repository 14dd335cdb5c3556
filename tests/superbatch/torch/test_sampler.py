"""The pure part over the whole table: world sizes 1-4, workers 0-3, accumulation 1 and 2, resume after every step.

32 set-ups of a log of 24 batches, each resumed after every one of 25 counts of trained batches under the next set-up of
the table: 800 resumes, no process, no socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import product

import pytest

from superbatch.conformance.sample_job import SampleJob
from superbatch.formats.errors import InvalidInput
from superbatch.log import BatchLog, LogBatch, LogState
from superbatch.torch import BatchSlice, CuratedBatchSampler, RowReference, Share, Workers, read_ahead_batches
from superbatch.torch.opening import OpenLog
from superbatch.torch.trained_log import TrainedLog
from superbatch.torch.window import BatchWindow
from tests.superbatch.torch.world import NUM_BATCHES, B, own_uids, state_at

SETUPS = list(product((1, 2, 3, 4), (0, 1, 2, 3), (1, 2)))
PREFETCH_FACTOR = 2


class ReadyLog:
    """A log whose batches are read already."""

    def __init__(self, batches: list[LogBatch], job: SampleJob, start_seq: int) -> None:
        self.job, self.left, self.num_asked = job, iter(batches[start_seq:]), start_seq
        self.start_seq = start_seq

    def __next__(self) -> LogBatch:
        batch = next(self.left)
        self.num_asked = batch.seq + 1
        return batch

    def __iter__(self) -> Iterator[LogBatch]:
        return self

    def state(self) -> LogState:
        return self.state_at(self.num_asked)

    def state_at(self, seq: int) -> LogState:
        assert seq <= self.num_asked
        return state_at(self.job, seq)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def batches(job: SampleJob) -> list[LogBatch]:
    from superbatch.conformance.service import SampleService
    from tests.superbatch.torch.world import TOKEN, in_memory

    with in_memory(SampleService(job, token=TOKEN))(state=None, read_ahead=0) as log:
        return list(log)


def uids(found: list[RowReference]) -> list[bytes]:
    at = 2  # the uid's place in BATCH_LIST_SCHEMA
    return [reference.values[at] for reference in found]  # type: ignore[misc]


class OneRank:
    """What torch does, in one process: asks ahead as its workers would, trains the oldest item."""

    def __init__(self, log: ReadyLog, share: Share, *, num_workers: int) -> None:
        self.log, self.share = log, share
        self.trained_log = TrainedLog(log, share=share, reports=False)  # type: ignore[arg-type]
        self.items = iter(CuratedBatchSampler(self.trained_log.window, share=share, b=B))
        self.queue: deque[list[RowReference]] = deque()
        self.items_ahead = Workers(num_workers=num_workers, prefetch_factor=PREFETCH_FACTOR).items_ahead

    def step(self) -> list[tuple[int, list[bytes]]]:
        """Train one batch; return (micro, uids) of each micro-step."""
        done = []
        for _ in range(self.share.accumulation):
            while len(self.queue) <= self.items_ahead and (item := next(self.items, None)):
                self.queue.append(item)
            found = self.queue.popleft()
            done.append((found[0].micro, uids(found)))
            reported = read_ahead_batches(self.items_ahead, accumulation=self.share.accumulation)
            assert self.log.num_asked - 1 <= found[0].seq + reported
            self.trained_log.trained(BatchSlice(found[0].seq, found[0].micro, tuple(uids(found))))
        return done


def train(
    batches: list[LogBatch], job: SampleJob, setup: tuple[int, int, int], *, start_seq: int, stop_seq: int
) -> list[dict[str, object]]:
    """Train [start_seq, stop_seq) on all ranks, hold every step against the contract, return the ranks' states."""
    world_size, num_workers, accumulation = setup
    ranks = [
        OneRank(ReadyLog(batches, job, start_seq), Share(rank, world_size, accumulation), num_workers=num_workers)
        for rank in range(world_size)
    ]
    for seq in range(start_seq, stop_seq):
        joined: list[bytes] = []
        for rank, each in enumerate(ranks):
            for (micro, found), wanted in zip(each.step(), range(accumulation), strict=True):
                assert micro == wanted
                assert found == own_uids(
                    job, seq, rank, world_size=world_size, accumulation=accumulation, micro=micro
                ), (setup, seq, rank)
                joined += found
        assert joined == list(job.batches[seq])
    return [dict(each.trained_log.state()) for each in ranks]


@pytest.mark.parametrize("number", range(len(SETUPS)))
def test_every_resume_under_another_set_up_goes_on_exactly(
    batches: list[LogBatch], job: SampleJob, number: int
) -> None:
    setup, following = SETUPS[number], SETUPS[(number + 5) % len(SETUPS)]
    for stop_seq in range(NUM_BATCHES + 1):
        states = train(batches, job, setup, start_seq=max(0, stop_seq - 1), stop_seq=stop_seq)
        assert all(state == job.state_at(stop_seq) for state in states), "one state, that of what was trained"
        train(batches, job, following, start_seq=stop_seq, stop_seq=min(NUM_BATCHES, stop_seq + 1))
    train(batches, job, setup, start_seq=0, stop_seq=NUM_BATCHES)


def test_a_second_iteration_begins_at_the_first_untrained_batch(open_log: OpenLog, job: SampleJob) -> None:
    share = Share(1, 2, 2)
    log = open_log(state=None, read_ahead=0)
    trained_log = TrainedLog(log, share=share, reports=False)
    sampler = CuratedBatchSampler(trained_log.window, share=share, b=B)
    first = [found for found, _ in zip(sampler, range(9), strict=False)]
    for found in first[:3]:  # batch 0, and the first half of batch 1
        trained_log.trained(BatchSlice(found[0].seq, found[0].micro, ()))
    again = next(iter(sampler))
    assert (again[0].seq, again[0].micro) == (1, 0)
    log.close()


def test_a_whole_batch_is_cut_into_the_parts_of_the_ranks_by_any_framework(open_log: OpenLog, job: SampleJob) -> None:
    share = Share(1, 3, 2)
    with open_log(state=None, read_ahead=0) as log:
        sampler = CuratedBatchSampler(BatchWindow(log), share=share, b=B, whole=True)
        assert sampler.batch_size == B // 2
        for number, found in zip(range(6), sampler, strict=False):
            seq, micro = divmod(number, 2)
            for rank in range(3):
                part = found[rank * B // 6 : (rank + 1) * B // 6]
                assert uids(part) == own_uids(job, seq, rank, world_size=3, accumulation=2, micro=micro)


@pytest.mark.parametrize(("world_size", "accumulation"), [(5, 1), (4, 5), (1, 7)])
def test_a_batch_that_cannot_be_divided_is_refused(open_log: OpenLog, world_size: int, accumulation: int) -> None:
    with open_log(state=None, read_ahead=0) as log, pytest.raises(InvalidInput, match="must be divisible"):
        CuratedBatchSampler(BatchWindow(log), share=Share(0, world_size, accumulation), b=B)


@pytest.mark.parametrize("wrong", [(2, 0), (0, 1), (1, 0), (0, 2)])
def test_a_batch_out_of_order_is_refused_when_it_is_trained(open_log: OpenLog, wrong: tuple[int, int]) -> None:
    share = Share(0, 1, 2)
    with open_log(state=None, read_ahead=0) as log:
        trained_log = TrainedLog(log, share=share, reports=False)
        with pytest.raises(InvalidInput, match="in the order of the log"):
            trained_log.trained(BatchSlice(*wrong, ()))


def test_nothing_can_be_trained_after_the_end(open_log: OpenLog, job: SampleJob) -> None:
    with open_log(state=state_at(job, NUM_BATCHES), read_ahead=0) as log:
        trained_log = TrainedLog(log, share=Share(), reports=False)
        with pytest.raises(InvalidInput, match="no batch is left"):
            trained_log.trained(BatchSlice(NUM_BATCHES, 0, ()))
        assert trained_log.window.is_finished


@pytest.mark.parametrize("bad", [(1, 1, 1), (-1, 2, 1), (0, 0, 1), (0, 1, 0)])
def test_a_share_that_is_none_is_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInput, match="rank must be in"):
        Share(*bad)


@pytest.mark.parametrize(
    ("num_workers", "accumulation", "look_ahead", "batches_ahead"),
    [(0, 1, 0, 0), (0, 1, 1, 1), (1, 1, 0, 3), (2, 1, 0, 6), (3, 1, 1, 10), (1, 2, 0, 2), (3, 2, 1, 5), (3, 4, 0, 3)],
)
def test_the_read_ahead_counts_whole_batches(
    num_workers: int, accumulation: int, look_ahead: int, batches_ahead: int
) -> None:
    items = Workers(num_workers=num_workers, prefetch_factor=2).items_ahead + look_ahead
    assert read_ahead_batches(items, accumulation=accumulation) == batches_ahead


def test_a_log_is_never_sent_to_a_worker(open_log: OpenLog) -> None:
    with open_log(state=None, read_ahead=0) as log:
        found = next(iter(CuratedBatchSampler(BatchWindow(log), share=Share(), b=B)))
    assert isinstance(log, BatchLog)
    assert all(type(value) in (int, float, str, bytes, type(None)) for each in found for value in each.values)
