"""Wake-ups: a commit rings, a rolled back transaction does not, and no ring between a look and a wait is lost."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from superbatch_server.service.catalog.engine import wakeups_of, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import request_cancel
from superbatch_server.service.catalog.wakeups import QUEUE, Wakeups
from tests.service.catalog.builders import claim_it, submit


def test_a_ring_from_another_thread_ends_a_wait_at_once() -> None:
    wakeups = Wakeups()

    async def wait() -> tuple[int, float]:
        seen, began_s = wakeups.seen("job"), time.monotonic()
        threading.Timer(0.05, wakeups.ring, ["job"]).start()
        return await wakeups.wait("job", seen, 30) - seen, time.monotonic() - began_s

    rings, waited_s = asyncio.run(wait())
    assert rings == 1
    assert waited_s < 10


def test_a_ring_between_look_and_wait_is_not_lost() -> None:
    wakeups = Wakeups()
    seen = wakeups.seen("job")
    wakeups.ring("job")
    assert asyncio.run(wakeups.wait("job", seen, 30)) == seen + 1


def test_nobody_is_woken_for_another_job_and_a_wait_ends_by_itself() -> None:
    wakeups = Wakeups()

    async def wait() -> int:
        threading.Timer(0.01, wakeups.ring, ["other"]).start()
        return await wakeups.wait("job", 0, 0.1)

    assert asyncio.run(wait()) == 0
    assert wakeups.seen("other") == 1


def test_everybody_is_woken_on_whichever_event_loop() -> None:
    wakeups, counts = Wakeups(), []

    async def wait_all() -> list[int]:
        return await asyncio.gather(*(wakeups.wait("job", 0, 30) for _ in range(50)))

    threads = [threading.Thread(target=lambda: counts.append(asyncio.run(wait_all()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        wakeups.ring("job")
        time.sleep(0.01)
    assert [len(each) for each in counts] == [50, 50]
    assert all(count >= 1 for each in counts for count in each)


def test_a_waiter_that_gave_up_leaves_nothing_behind() -> None:
    wakeups = Wakeups()
    asyncio.run(wakeups.wait("job", 0, 0.01))
    assert wakeups._waiting == {}


def test_commits_ring_for_the_jobs_that_they_change(engine: Engine) -> None:
    heard: list[str] = []
    with wakeups_of(engine).heard_by(heard.append):
        job_id = submit(engine)
        assert sorted(heard) == sorted([job_id, QUEUE])
        heard.clear()
        claim_it(engine)
        assert set(heard) == {job_id, QUEUE}
        heard.clear()
        with write(engine) as connection:
            add_event(connection, job_id, "noted", "hello")
            assert heard == [], "before the commit there is nothing to see"
        assert heard == [job_id]
        heard.clear()
        with write(engine) as connection:
            request_cancel(connection, job_id)
        assert set(heard) == {job_id, QUEUE}


def note_twice(engine: Engine, *job_ids: str) -> None:
    """Add an event to each job in one transaction."""
    with write(engine) as connection:
        for job_id in job_ids:
            add_event(connection, job_id, "noted", "hello")


def test_what_is_rolled_back_rings_nobody(engine: Engine) -> None:
    job_id = submit(engine)
    heard: list[str] = []
    with wakeups_of(engine).heard_by(heard.append):
        with pytest.raises(IntegrityError):
            note_twice(engine, job_id, "job_of_nobody")
        assert heard == []
