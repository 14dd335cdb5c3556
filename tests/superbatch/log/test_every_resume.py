"""The pure part of a curated trainer, over its whole table: cursor, slices, digests, for every resume of a 24-step log.

A case is (world size before, world size after, workers, accumulation, step after which the trainer was stopped). The
trainer asks workers * 3 batches ahead (a torch loader with prefetch_factor 2), saves the state after the batch that it
trained last, and goes on from it at another world size. The lists hold 5 batches, so states lie at the ends of lists
and inside them. What a run does before it is stopped does not depend on when that is, nor what it does afterwards on
what was before but the saved state; so each run is made once, and a case joins two of them. Before the stop every rank
has a log of its own; a log knows no rank, so afterwards one log is cut for every world size.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256

import pyarrow as pa
import pytest

from superbatch.formats.digests import log_digest_start
from superbatch.formats.errors import InvalidInput
from superbatch.formats.manifest import Manifest
from superbatch.log import BatchLog, LogBatch
from tests.superbatch.formats.sample_batches import a_batch
from tests.superbatch.log.fake_service import JOB, FakeService

NUM_STEPS = 24
BATCH_SIZE = 24
WORLD_SIZES = (1, 2, 3, 4)
WORKERS = (0, 1, 2, 3)
ACCUMULATIONS = (1, 2)
PREFETCH = 2

Cut = tuple[int, int]
"""World size and accumulation: how a batch is cut."""


class MemorySource:
    """A LogSource over the lists of a FakeService."""

    def __init__(self, service: FakeService) -> None:
        self.service = service

    def manifest(self, next_seq: int, *, history_id: str | None, wait_s: float) -> Manifest:
        return self.service.manifest(next_seq)

    def content(self, link: str, *, max_bytes: int) -> bytes:
        return self.service.lists[link.rpartition("/")[2]]

    def pause(self, failures: int) -> None:
        raise AssertionError("nothing fails here")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def source() -> MemorySource:
    service = FakeService(page=2)
    service.b = BATCH_SIZE
    service.publish_all(NUM_STEPS, per_list=5)
    return MemorySource(service)


def uids_of(batch: LogBatch, rank: int, *, world_size: int, accumulation: int) -> bytes:
    steps = range(accumulation)
    parts = [batch.slice(rank, world_size=world_size, accumulation=accumulation, micro=micro) for micro in steps]
    return b"".join(stored_uids(part) for part in parts)


def stored_uids(rows: pa.RecordBatch) -> bytes:
    uids = rows.column("uid")
    return bytes(uids.buffers()[1])[16 * uids.offset : 16 * (uids.offset + len(uids))]


def joint(batch: LogBatch, cut: Cut) -> bytes:
    """The uids of all slices of a batch, rank by rank."""
    world_size, accumulation = cut
    ranks = range(world_size)
    return b"".join(uids_of(batch, rank, world_size=world_size, accumulation=accumulation) for rank in ranks)


def steps_of(log: BatchLog, workers: int) -> Iterator[tuple[LogBatch, str]]:
    """Each batch when it is trained, while the next ones are asked for already, and the state saved after it."""
    asked: deque[LogBatch] = deque()
    while True:
        while len(asked) <= workers * (PREFETCH + 1) and (batch := next(log, None)) is not None:
            asked.append(batch)
        if not asked:
            return
        batch = asked.popleft()
        yield batch, json.dumps(log.state_at(batch.seq + 1))


def run_before(source: MemorySource, world_size: int, workers: int) -> tuple[dict[int, list[bytes]], list[str]]:
    """The joint batches of a run on ranks with a log each, per accumulation, and the states, alike on every rank."""
    shares: dict[int, list[bytes]] = {accumulation: [b""] * NUM_STEPS for accumulation in ACCUMULATIONS}
    all_states = []
    for rank in range(world_size):
        with BatchLog("", JOB, source=source, world_size=world_size, accumulation=2) as log:
            states = []
            for step, (batch, state) in enumerate(steps_of(log, workers)):
                for each, joined in shares.items():
                    joined[step] += uids_of(batch, rank, world_size=world_size, accumulation=each)
                states.append(state)
        all_states.append(states)
    assert all(states == all_states[0] for states in all_states), "nothing in a state belongs to a rank"
    return shares, all_states[0]


def run_after(source: MemorySource, state: str, workers: int) -> dict[Cut, list[bytes]]:
    """The joint batches of a run that begins at a saved state, for every way to cut them."""
    cuts = list(itertools.product(WORLD_SIZES, ACCUMULATIONS))
    with BatchLog("", JOB, source=source, state=json.loads(state)) as log:
        batches = [batch for batch, _ in steps_of(log, workers)]
    return {cut: [joint(batch, cut) for batch in batches] for cut in cuts}


def published() -> list[bytes]:
    return [b"".join(a_batch(seq, BATCH_SIZE).column("uid").to_pylist()) for seq in range(NUM_STEPS)]


def plain_digests() -> list[str]:
    """The chain of the contract, written out once more."""
    digest, chain = log_digest_start(JOB, "h1"), []
    fingerprint = sha256(b"dataset").digest()
    for seq, uids in enumerate(published()):
        slots = b"".join(uids[start : start + 16] + b"\0" for start in range(0, len(uids), 16))
        head = seq.to_bytes(8, "little") + BATCH_SIZE.to_bytes(4, "little")
        digest = sha256(digest + sha256(b"superbatch-batch-v1\0" + fingerprint + head + slots).digest()).digest()
        chain.append(digest.hex())
    return chain


def test_all_3072_cases_keep_all_73728_joint_batches_whole_and_in_order(source: MemorySource) -> None:
    wanted, digests = published(), plain_digests()
    after: dict[tuple[str, int], dict[Cut, list[bytes]]] = {}
    num_cases = num_intact = 0
    for world_size, workers in itertools.product(WORLD_SIZES, WORKERS):
        before, states = run_before(source, world_size, workers)
        assert [json.loads(state)["log_digest"] for state in states] == digests
        for stopped_at, state in enumerate(states, start=1):
            if (state, workers) not in after:
                after[state, workers] = run_after(source, state, workers)
            for cut, rest in after[state, workers].items():
                assert before[cut[1]][:stopped_at] + rest == wanted, (world_size, workers, stopped_at, cut)
                num_cases, num_intact = num_cases + 1, num_intact + len(wanted)
    assert len(after) == NUM_STEPS * len(WORKERS), "the state is all that the past leaves"
    assert (num_cases, num_intact) == (3072, 73728)


@pytest.mark.parametrize(
    ("saved", "num_caught"),
    [
        (lambda log, seq: log.state(), 23),  # what was asked for ahead is lost
        (lambda log, seq: log.state_at(seq), 24),  # one batch twice
    ],
    ids=["the state of what was asked for", "the state before the batch"],
)
def test_the_table_would_catch_a_loader_that_saves_another_state(
    source: MemorySource, saved: Callable[[BatchLog, int], Mapping[str, object]], num_caught: int
) -> None:
    """Two workers ask 6 batches ahead; only after the last batch is nothing ahead of the one being trained."""
    wanted, num_wrong = list(range(NUM_STEPS)), 0
    with BatchLog("", JOB, source=source) as log:
        asked = [next(log) for _ in range(6)]
        for seq in range(NUM_STEPS):
            asked += [batch for batch in [next(log, None)] if batch is not None]
            assert asked.pop(0).seq == seq
            with BatchLog("", JOB, source=source, state=saved(log, seq)) as resumed:
                num_wrong += [*range(seq + 1), *(batch.seq for batch in resumed)] != wanted
    assert num_wrong == num_caught


def test_a_world_size_or_accumulation_that_does_not_divide_never_begins(source: MemorySource) -> None:
    with BatchLog("", JOB, source=source) as log:
        batch = next(log)
    for world_size, accumulation in ((5, 1), (7, 1), (3, 16), (25, 1)):
        with pytest.raises(InvalidInput, match=f"b = 24, {world_size}"):
            batch.slice(0, world_size=world_size, accumulation=accumulation)
