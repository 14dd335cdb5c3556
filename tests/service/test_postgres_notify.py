"""Two processes on one Postgres: a commit through one wakes who waits on the other, within milliseconds.

A lost notification costs at most the second after which everybody looks.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from sqlalchemy import Engine, text

from superbatch.formats.manifest import Manifest
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import create_engine, wakeups_of, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.listener import listening
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.catalog.wakeups import LOOK_S, QUEUE
from tests.service.catalog.builders import add_dataset, claim_it, job, record_rows, segment_commit, submit
from tests.service.databases import needs_postgres
from tests.service.postgres import new_engine, shared_server, template
from tests.service.running import TOKEN, running_api, supervising, wait_until

pytestmark = needs_postgres

LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


@pytest.fixture
def url() -> Iterator[str]:
    with shared_server().database(template=template(add_dataset)) as url:
        yield url


@pytest.fixture
def ours(url: str) -> Iterator[Engine]:
    """The engine of one process."""
    with new_engine(url) as engine:
        yield engine


@pytest.fixture
def theirs(url: str) -> Iterator[Engine]:
    """The engine of another, which listens."""
    with new_engine(url) as engine, listening(engine):
        wait_until(lambda: listeners(engine), "it listens")
        yield engine


def listeners(engine: Engine) -> list[int]:
    """Return the backends that listen."""
    with engine.connect() as connection:
        return list(connection.execute(text(LISTENERS)).scalars())


def note(engine: Engine, job_id: str) -> None:
    """Add an event."""
    with write(engine) as connection:
        add_event(connection, job_id, "noted", "hello")


def publish(engine: Engine, attempt: Attempt) -> float:
    """Publish the next batch and return when it was committed."""
    row = job(engine, attempt.job_id)
    record_rows(engine, attempt, row["next_seq"])
    with write(engine) as connection:
        commit_segment(connection, attempt, segment_commit(row, row["next_seq"]))
    return time.monotonic()


@contextlib.contextmanager
def hearing(engine: Engine) -> Iterator[list[str]]:
    """Collect what is rung."""
    heard: list[str] = []
    with wakeups_of(engine).heard_by(heard.append):
        yield heard


def test_a_commit_rings_in_the_other_process_and_once_in_its_own(ours: Engine, theirs: Engine) -> None:
    job_id = submit(ours)
    wait_until(lambda: all(wakeups_of(theirs).seen(name) for name in (job_id, QUEUE)), "the other process hears")
    with hearing(ours) as own, hearing(theirs) as others:
        note(ours, job_id)
        wait_until(lambda: others == [job_id], "the other process hears", limit_s=5)
        assert own == [job_id]
        note(theirs, job_id)
        time.sleep(0.2)
        assert others == [job_id, job_id], "its own ring comes back to nobody"
        assert own == [job_id], "one that does not listen hears its own only"


def test_a_listener_whose_backend_is_terminated_comes_back(ours: Engine, theirs: Engine) -> None:
    job_id = submit(ours)
    wait_until(lambda: wakeups_of(theirs).seen(QUEUE), "it hears")
    (lost,) = listeners(ours)
    with ours.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": lost})
    wait_until(lambda: set(listeners(ours)) - {lost}, "it listens again", limit_s=10)
    with hearing(theirs) as heard:
        note(ours, job_id)
        wait_until(lambda: job_id in heard, "it hears again", limit_s=5)


def test_one_that_stops_listening_stops_at_once(url: str) -> None:
    with new_engine(url) as engine:
        with listening(engine):
            wait_until(lambda: listeners(engine), "it listens")
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 2
        wait_until(lambda: not listeners(engine), "its backend is gone", limit_s=5)


def poll(client: httpx.Client, job_id: str, after: int) -> tuple[Manifest, float]:
    """Wait for the next batch; return the manifest and when it came."""
    answer = client.get(f"/v1/jobs/{job_id}/manifest", params={"after": after, "wait": 30})
    assert answer.status_code == 200, answer.text
    return Manifest.from_json(answer.content), time.monotonic()


def poll_into(came: list[tuple[Manifest, float]], client: httpx.Client, job_id: str, after: int) -> None:
    """Keep what a poll brings."""
    came.append(poll(client, job_id, after))


def delays(client: httpx.Client, engine: Engine, attempt: Attempt, num_batches: int) -> list[float]:
    """Publish batches while a poll waits for each; return the seconds from commit to delivery."""
    found = []
    first = job(engine, attempt.job_id)["next_seq"]
    for after in range(first, first + num_batches):
        came: list[tuple[Manifest, float]] = []
        waiting = threading.Thread(target=poll_into, args=(came, client, attempt.job_id, after))
        waiting.start()
        time.sleep(0.15)
        committed_s = publish(engine, attempt)
        waiting.join()
        assert [segment.first_seq for segment in came[0][0].segments] == [after]
        found.append(came[0][1] - committed_s)
    return found


def test_a_commit_through_one_process_ends_a_long_poll_on_another(ours: Engine, theirs: Engine, tmp_path: Path) -> None:
    job_id = submit(ours)
    attempt = claim_it(ours)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with (
        running_api(theirs, tmp_path) as settings,
        httpx.Client(base_url=settings.service_url, headers=headers, trust_env=False, timeout=60) as client,
    ):
        rung = delays(client, ours, attempt, 4)
        assert statistics.median(rung) < LOOK_S / 4, f"notified: {rung}"
        # Without its listener it looks for itself; one that comes back at once is terminated again.
        silenced = threading.Event()
        silencer = threading.Thread(target=keep_terminating, args=(ours, silenced))
        silencer.start()
        try:
            looked = delays(client, ours, attempt, 2)
        finally:
            silenced.set()
            silencer.join()
        assert max(looked) < 5 * LOOK_S, f"not notified: {looked}"
        print(f"notified {rung}, not notified {looked}")
    assert job(ours, job_id)["next_seq"] == 6


def keep_terminating(engine: Engine, stop: threading.Event) -> None:
    """End every backend that listens, as soon as it does."""
    while not stop.wait(0.02):
        with engine.connect() as connection:
            connection.execute(text(LISTENERS.replace("pid FROM", "pg_terminate_backend(pid) FROM")))


def test_a_supervisor_begins_a_job_as_soon_as_it_is_queued(ours: Engine, theirs: Engine, tmp_path: Path) -> None:
    with running_api(ours, tmp_path) as settings:
        slow = settings.model_copy(update={"poll_s": 60.0})
        with supervising(theirs, slow) as supervisor:
            wait_until(lambda: present(ours, supervisor.id), "it is there")
            time.sleep(0.5)
            job_id = submit(ours)
            wait_until(lambda: job(ours, job_id)["state"] != JobState.QUEUED, "it is claimed", limit_s=20)


def present(engine: Engine, supervisor_id: str) -> bool:
    """Claim that a supervisor's row is there."""
    with engine.connect() as connection:
        query = text("SELECT id FROM supervisors WHERE id = :id")
        return connection.execute(query, {"id": supervisor_id}).first() is not None


def test_sqlite_has_nobody_to_listen_to(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    with listening(engine):
        assert not any(thread.name == "listener" for thread in threading.enumerate())
    engine.dispose()
