"""BatchLog against the service's own API: what the service says for news, no news, other logs and lost batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, update

from superbatch.formats.batch_list import BatchListReader, write_batch_list
from superbatch.formats.errors import BehindRetention, HistoryChanged, LogStalled, RevokedBatch, ServiceError
from superbatch.log import BatchLog
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.segments import commit_segment, newest_log_files
from superbatch_server.service.catalog.tables import jobs, segments
from superbatch_server.workers.lists import put_files
from tests.service.api.test_exclusions import exclude, search
from tests.service.api.world import TOKEN, URL, World, sha256
from tests.service.catalog.builders import FINGERPRINT, claim_it, record_rows, segment_commit
from tests.service.catalog.builders import job as job_row
from tests.superbatch.formats.sample_batches import a_batch, uid_at

Opened = Callable[..., BatchLog]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def publish(world: World, job: str, num_segments: int, *, batches: int = 1) -> None:
    """Publish lists whose digests are those of their batches, as a driver does."""
    world.attempt = world.attempt or claim_it(world.engine)
    for _ in range(num_segments):
        row = job_row(world.engine, job)
        first_seq = row["next_seq"]
        content = write_batch_list(
            [a_batch(first_seq + each) for each in range(batches)], fingerprint=bytes.fromhex(FINGERPRINT)
        )
        digests = [digest.hex() for digest in BatchListReader(content).batch_digests]
        commit = segment_commit(
            row, first_seq, batches, bytes=len(content), sha256=sha256(content), batch_digests=digests
        )
        world.store.put_new(commit.list_key, content)
        record_rows(world.engine, world.attempt, first_seq, batches)
        with write(world.engine) as connection:
            commit_segment(connection, world.attempt, commit)


@pytest.fixture
def job(world: World) -> str:
    job = world.submit(world.pushed_spec())
    publish(world, job, 3, batches=2)
    return job


@pytest.fixture
def answers() -> list[tuple[str, int]]:
    """Path and status of everything that the service answered."""
    return []


@pytest.fixture
def opened(world: World, answers: list[tuple[str, int]]) -> Iterator[Opened]:
    def carry(request: httpx.Request) -> httpx.Response:
        found = world.client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        answers.append((request.url.path.rpartition("/")[2], found.status_code))
        return httpx.Response(found.status_code, content=found.content, headers={"ETag": found.headers.get("ETag", "")})

    with httpx.Client(transport=httpx.MockTransport(carry)) as client, ExitStack() as logs:

        def open_log(job: str, **options: object) -> BatchLog:
            plain = {"token": TOKEN, "client": client, "idle_limit_s": 0.0, "wait_s": 0.0}
            return logs.enter_context(BatchLog(URL, job, **{**plain, **options}))

        yield open_log


def test_batches_come_once_and_no_news_costs_no_body(
    world: World, job: str, opened: Opened, answers: list[tuple[str, int]]
) -> None:
    log = opened(job)
    assert [next(log).seq for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    for _ in range(3):
        with pytest.raises(LogStalled, match="batch 6"):
            next(log)
    polls = [status for path, status in answers if path == "manifest"]
    assert set(polls) == {200, 304}
    assert polls.count(200) <= 2, "the segments, then the empty page; after that nothing but 304"
    publish(world, job, 1)
    assert next(log).seq == 6


def test_a_service_that_is_restarted_between_polls_goes_on(world: World, job: str, opened: Opened) -> None:
    log = opened(job, lists_ahead=1)
    seqs = [next(log).seq]
    world.restart()
    seqs += [next(log).seq for _ in range(5)]
    world.restart()
    publish(world, job, 1)
    assert [*seqs, next(log).seq] == list(range(7))


def test_another_history_another_job_and_a_job_that_is_none_are_told_apart(
    world: World, job: str, opened: Opened
) -> None:
    log = opened(job)
    next(log)
    state = log.state()
    world.attempt = None
    other = world.submit(world.pushed_spec())
    with pytest.raises(HistoryChanged, match="one of job"):
        opened(other, state=state)
    with pytest.raises(HistoryChanged, match="another log of job"):
        next(opened(other, state={**state, "job": other}))
    with pytest.raises(ServiceError, match=r"404 \(not_found\)"):
        next(opened("job_that_is_none"))
    with write(world.engine) as connection:
        connection.execute(update(jobs).where(jobs.c.id == job).values(history_id="begun-anew"))
    with pytest.raises(HistoryChanged, match=r"409 .*begun-anew|begun-anew"):
        next(opened(job, state=state))


def test_a_state_beyond_the_log_is_of_another_one(job: str, opened: Opened) -> None:
    state = opened(job).state()
    with pytest.raises(HistoryChanged, match="after must not exceed the published batches; got 9"):
        next(opened(job, state={**state, "next_seq": 9, "log_digest": "00" * 32}))


def test_batches_behind_retention_are_told_with_the_oldest(world: World, job: str, opened: Opened) -> None:
    state = opened(job).state()
    with write(world.engine) as connection:
        connection.execute(delete(segments).where(segments.c.job_id == job, segments.c.first_seq < 4))
    with pytest.raises(BehindRetention, match="got seq 0, oldest is 4") as caught:
        next(opened(job, state=state))
    assert caught.value.oldest_seq == 4


def test_a_skipped_and_an_excluded_batch_raise_unless_ranks_agree(world: World, job: str, opened: Opened) -> None:
    rank_0 = opened(job)
    rank_0.register("trainer", checkpoint_every=4)
    assert next(rank_0).seq == 0
    rank_0.skip_batch(2, "unreadable: 000003.tar")
    exclude(world, job, uid_at(4, 1), reason="withdrawn by its owner")
    search(world)
    with pytest.raises(RevokedBatch, match=r"batch 2 was revoked \(.*unreadable: 000003\.tar"):
        [opened_batch.seq for opened_batch in opened(job)]
    agreed = opened(job).withdrawn()
    assert [(each.first_seq, each.num_batches) for each in agreed] == [(2, 1), (4, 1)]
    for _ in range(2):
        log = opened(job, skipped=agreed, world_size=2)
        assert [next(log).seq for _ in range(4)] == [0, 1, 3, 5]


def test_the_files_of_the_store_give_the_same_log(world: World, job: str, opened: Opened) -> None:
    with write(world.engine) as connection:
        put_files(world.store, newest_log_files(connection, job))
    log = opened(job)
    served = [next(log) for _ in range(6)]
    (prefix,) = world.settings.data_dir.glob(f"store/jobs/{job}/*")
    with BatchLog.from_prefix(prefix, idle_limit_s=0.0) as files:
        assert files.shard_table() == log.shard_table()
        assert files.manifest().policy == log.manifest().policy
        found = [next(files) for _ in range(6)]
        assert [(batch.seq, batch.log_digest) for batch in found] == [(batch.seq, batch.log_digest) for batch in served]
        assert all(one.rows.equals(two.rows) for one, two in zip(found, served, strict=True))
        assert files.state() == log.state()
