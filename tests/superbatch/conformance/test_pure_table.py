"""The whole table in process: BatchLog's cursor, digests and slices over every size and every resume.

World sizes 1-4 x workers 0-3 x accumulation 1-2 x a resume after every step of a 24-step log x world sizes 1-4 after
it: 3,200 combinations. A worker stands for what it does to a log: batches taken ahead of the one being trained.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, product

import httpx
import pytest

from superbatch.conformance.sample_job import JOB, SampleJob, make_job
from superbatch.conformance.service import Request, SampleService
from superbatch.log import BatchLog, LogBatch

TOKEN = "secret"
STEPS = 24
WORLD_SIZES, WORKERS, ACCUMULATIONS = (1, 2, 3, 4), (0, 1, 2, 3), (1, 2)
PREFETCH_FACTOR = 2
Open = Callable[[Mapping[str, object] | None], BatchLog]
Trained = list[tuple[LogBatch, dict[str, object]]]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SampleJob:
    return make_job(tmp_path_factory.mktemp("job"), num_batches=STEPS, b=24)


@pytest.fixture(scope="module")
def open_log(job: SampleJob) -> Iterator[Open]:
    service = SampleService(job, token=TOKEN)

    def answer(request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        reply = service.answer(Request(request.method, target, dict(request.headers), request.content))
        return httpx.Response(reply.status, content=reply.body, headers=dict(reply.headers))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        yield lambda state: BatchLog("http://service", JOB, token=TOKEN, state=state, client=client)


def trained_through(log: BatchLog, *, num_workers: int, num_steps: int) -> Trained:
    """Train so many batches of a log with a loader's batches ahead; return each with the state saved after it."""
    trained: Trained = []
    for batch in islice(loaded_ahead(log, num_workers * (PREFETCH_FACTOR + 1)), num_steps):
        trained.append((batch, dict(log.state_at(batch.seq + 1))))
    return trained


def loaded_ahead(log: BatchLog, depth: int) -> Iterator[LogBatch]:
    """Yield the batches of a log, with so many later ones taken from it already."""
    ahead: deque[LogBatch] = deque()
    for batch in log:
        ahead.append(batch)
        if len(ahead) > depth:
            yield ahead.popleft()
    yield from ahead


def slices_of(batch: LogBatch, world_size: int, accumulation: int) -> list[bytes]:
    """Return the rows of all ranks and micro-steps, rank by rank."""
    found: list[bytes] = []
    for rank in range(world_size):
        for micro in range(accumulation):
            rows = batch.slice(rank, world_size=world_size, accumulation=accumulation, micro=micro)
            assert rows.num_rows == 24 // (world_size * accumulation)
            found += rows.column("uid").to_pylist()
    return found


def test_every_resume_at_every_size_gives_every_batch_once(job: SampleJob, open_log: Open) -> None:
    counted: Counter[str] = Counter()
    sliced: dict[tuple[int, int, int], bool] = {}

    def is_whole(batch: LogBatch, world_size: int, accumulation: int) -> bool:
        """A batch's slices are looked at once per sizes: they depend on nothing else."""
        place = (batch.seq, world_size, accumulation)
        if place not in sliced:
            sliced[place] = tuple(slices_of(batch, world_size, accumulation)) == job.batches[batch.seq]
        return sliced[place] and tuple(batch.rows.column("uid").to_pylist()) == job.batches[batch.seq]

    whole_runs: dict[int, Trained] = {}
    for num_workers in WORKERS:
        with open_log(None) as log:
            whole_runs[num_workers] = trained_through(log, num_workers=num_workers, num_steps=STEPS)
    for num_workers, step in product(WORKERS, range(STEPS + 1)):
        before = whole_runs[num_workers][:step]  # each with the state that was saved when it had been trained
        state = before[-1][1] if before else None
        with open_log(state) as log:
            after = trained_through(log, num_workers=num_workers, num_steps=STEPS)
            assert log.state() == job.state_at(STEPS)
        batches = [batch for batch, _ in before + after]
        assert [batch.seq for batch in batches] == list(range(STEPS))
        assert all(saved == job.state_at(batch.seq + 1) for batch, saved in before + after)
        for world_size, accumulation, next_world_size in product(WORLD_SIZES, ACCUMULATIONS, WORLD_SIZES):
            intact = sum(is_whole(batch, world_size, accumulation) for batch, _ in before)
            intact += sum(is_whole(batch, next_world_size, accumulation) for batch, _ in after)
            counted.update(combinations=1, intact=intact, wanted=STEPS)
    print(f"{counted['combinations']} combinations; joint batches intact: {counted['intact']} of {counted['wanted']}")
    assert counted == {"combinations": 4 * 4 * 2 * 4 * 25, "intact": 76_800, "wanted": 76_800}


def test_a_state_of_the_read_ahead_would_lose_batches(job: SampleJob, open_log: Open) -> None:
    """What the table would show if a loader saved its position in the log: it is no vacuous proof."""
    with open_log(None) as log:
        before = trained_through(log, num_workers=1, num_steps=10)
        state = log.state()
    with open_log(state) as log:
        after = trained_through(log, num_workers=1, num_steps=STEPS)
    lost = set(range(STEPS)) - {batch.seq for batch, _ in before + after}
    assert lost == {10, 11, 12}
