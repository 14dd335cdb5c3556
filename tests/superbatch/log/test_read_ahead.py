"""The thread that reads ahead: bounded, in order, with each error at its batch, and gone once the log is closed."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from superbatch.formats.errors import InvalidInput, ServiceUnreachable
from superbatch.log import BatchLog
from tests.superbatch.formats.sample_batches import a_batch
from tests.superbatch.log.conftest import OpenLog
from tests.superbatch.log.fake_service import JOB, TOKEN, FakeService

PATIENCE_S = 60.0


def log_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "superbatch-log"}


def lists_asked_for(service: FakeService) -> list[int]:
    names = [request.url.path.rpartition("/")[2] for request in service.requests if "/lists/" in request.url.path]
    return [int(name[:12]) for name in names]


def wait_until(is_true: Callable[[], bool]) -> None:
    stop_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < stop_s, "it never came true"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = log_threads()
    yield
    wait_until(lambda: log_threads() <= before)


@pytest.mark.parametrize("lists_ahead", [1, 3])
def test_the_next_lists_come_while_the_trainer_trains_and_no_more_than_allowed(
    service: FakeService, open_log: OpenLog, lists_ahead: int
) -> None:
    service.publish_all(12)
    log = open_log(lists_ahead=lists_ahead)
    for seq in range(12):
        assert next(log).seq == seq
        stop = min(12, seq + 1 + lists_ahead)
        wait_until(lambda stop=stop: lists_asked_for(service) == list(range(stop)))
        time.sleep(0.01)
        assert lists_asked_for(service) == list(range(stop)), "beside the list in use only so many are kept"


def test_the_bytes_kept_ready_are_bounded_and_one_list_is_always_allowed(
    service: FakeService, open_log: OpenLog
) -> None:
    service.publish_all(8)
    sizes = [segment.num_bytes for segment in service.segments]
    for allowed, ahead in ((1, 1), (sizes[1] + sizes[2], 2)):
        service.requests.clear()
        log = open_log(lists_ahead=8, lists_ahead_bytes=allowed)
        next(log)
        wait_until(lambda ahead=ahead: len(lists_asked_for(service)) == 1 + ahead)
        time.sleep(0.02)
        assert lists_asked_for(service) == list(range(1 + ahead))


def test_an_error_is_raised_at_the_batch_it_belongs_to(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(6)
    broken = [True]

    def reset_once(request: httpx.Request) -> None:
        if "/lists/000000000003-" in request.url.path and broken:
            broken.pop()
            raise httpx.ReadError("connection reset", request=request)

    service.hooks.append(reset_once)
    log = open_log(num_attempts=1)
    assert next(log).seq == 0
    wait_until(lambda: not broken)
    assert [next(log).seq, next(log).seq] == [1, 2]
    with pytest.raises(ServiceUnreachable, match="connection reset"):
        next(log)
    assert log.state()["next_seq"] == 3
    assert [batch.seq for batch in log] == [3, 4, 5]


def test_nothing_runs_before_the_first_batch_is_asked_for_and_after_the_last(
    service: FakeService, open_log: OpenLog
) -> None:
    service.publish_all(3)
    before = log_threads()
    log = open_log()
    log.manifest()
    log.state()
    assert log_threads() == before
    list(log)
    wait_until(lambda: log_threads() == before)


def test_closing_ends_the_thread_at_once_and_a_closed_log_says_so(service: FakeService, open_log: OpenLog) -> None:
    service.publish(a_batch(0))
    log = open_log()
    next(log)
    before = log_threads()
    assert len(before) == 1
    log.close()
    assert not before & log_threads(), "close waits for the thread, which sits in no poll while nobody waits"
    with pytest.raises(InvalidInput, match="a log that was closed gives no batch; asked for 1"):
        next(log)
    log.close()


def test_closing_while_another_thread_waits_ends_that_wait(service: FakeService, open_log: OpenLog) -> None:
    log = open_log()
    told: list[BaseException] = []

    def wait() -> None:
        try:
            next(log)
        except InvalidInput as error:
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: len(service.requests) > 2)
    log.close()
    waiting.join(PATIENCE_S)
    assert "closed while batch 0 was waited for" in str(told[0])


def test_a_log_that_is_forgotten_ends_its_thread(service: FakeService) -> None:
    service.publish(a_batch(0))
    with httpx.Client(transport=httpx.MockTransport(service.answer)) as client:
        log = BatchLog("http://127.0.0.1:8000", JOB, token=TOKEN, client=client)
        next(log)
        (thread,) = log_threads()
        del log
        gc.collect()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_thread_that_nobody_waits_for_asks_rarely(service: FakeService, open_log: OpenLog) -> None:
    service.publish(a_batch(0))
    log = open_log()
    next(log)
    time.sleep(0.5)
    polls = [request for request in service.requests if "manifest" in request.url.path]
    assert len(polls) <= 4, "the first one, one for the batch, one after it, and on a slow machine one a second later"
    assert all(float(poll.url.params["wait"]) == 0.0 for poll in polls[2:]), "no poll is held back for nobody"


def test_a_forked_process_must_open_a_log_of_its_own(service: FakeService, open_log: OpenLog) -> None:
    """A torch worker is a fork: it has no thread, and shares the parent's connections."""
    service.publish_all(4)
    log = open_log()
    assert next(log).seq == 0
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def use_it() -> None:
        for use in (lambda: next(log), log.state, log.manifest, log.roots):
            try:
                use()
            except InvalidInput as error:
                answers.put(str(error))
        log.close()
        answers.put("closed without harm")

    child = fork.Process(target=use_it)
    child.start()
    told = [answers.get() for _ in range(5)]
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    assert all("belongs to the process that opened it" in text for text in told[:4])
    assert told[4] == "closed without harm"
    assert [batch.seq for batch in log] == [1, 2, 3], "the parent's log is as it was"


def test_a_log_cannot_be_pickled_into_a_spawned_worker(open_log: OpenLog) -> None:
    with pytest.raises(InvalidInput, match=r"Send state\(\), and open a log there"):
        pickle.dumps(open_log())
