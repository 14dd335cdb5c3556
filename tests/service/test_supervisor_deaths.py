"""What happens when the supervisor itself dies or freezes: another one takes over, and nothing visible changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.tables import log_digests, segments
from superbatch_server.service.settings import Settings
from tests.service.catalog.builders import event_kinds, expire, job, submit
from tests.service.running import (
    attempt_row,
    processes_of,
    running_api,
    supervising,
    supervisor_process,
    wait_until,
    with_driver,
)


@pytest.fixture
def soon_expiring(engine: Engine, tmp_path: Path) -> Iterator[Settings]:
    with running_api(engine, tmp_path, lease_s=2.0) as settings:
        yield settings.model_copy(update={"max_crashes": 5})


def visible(engine: Engine, job_id: str) -> list[object]:
    """Return everything that a reader can see of a job."""
    with read(engine) as connection:
        rows = [
            connection.execute(select(table).where(table.c.job_id == job_id)).all() for table in (segments, log_digests)
        ]
    return [job(engine, job_id), *rows]


def expired(engine: Engine, job_id: str) -> dict[str, Any]:
    """Return a job after the lease of its first attempt ran out."""
    expire(engine, job_id, token=1)
    return job(engine, job_id)


def test_a_killed_supervisors_job_is_taken_over_and_its_driver_ends_itself(
    engine: Engine, soon_expiring: Settings
) -> None:
    settings = soon_expiring
    job_id = submit(engine)
    with supervisor_process(with_driver(settings, "beat")) as first:
        wait_until(lambda: job(engine, job_id)["phase"] == "composing", "the driver's first heartbeat")
        first.kill()
        first.wait()
        wait_until(lambda: processes_of(job_id) == [], "the driver is gone", limit_s=10)
        with supervising(engine, settings):
            wait_until(lambda: job(engine, job_id)["state"] == JobState.SUCCEEDED, "another one finishes the job")
    assert "taken_over" in event_kinds(engine, job_id)


def test_a_driver_that_survives_its_supervisor_is_killed_by_the_next_one(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    with supervisor_process(with_driver(settings, "stubborn")) as first:
        wait_until(lambda: job(engine, job_id)["phase"] == "composing", "the driver's first heartbeat")
        first.kill()
        first.wait()
        assert len(processes_of(job_id)) == 1
        with supervising(engine, settings):
            wait_until(lambda: processes_of(job_id) == [], "the driver is gone", limit_s=10)
            # A heartbeat that was on its way when the driver died may renew the lease once more.
            wait_until(lambda: expired(engine, job_id)["token"] == 2, "a takeover")
            wait_until(lambda: job(engine, job_id)["state"] == JobState.SUCCEEDED, "another one finishes the job")


def test_a_zombie_that_wakes_after_its_lease_changes_nothing(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    # The zombie gets time to try: its supervisor, awake again, would otherwise end it within stop_grace_s.
    with supervisor_process(with_driver(settings, "zombie").model_copy(update={"stop_grace_s": 60.0})) as first:
        wait_until(lambda: job(engine, job_id)["next_seq"] == 1, "the first batch")
        attempt = wait_until(lambda: attempt_row(engine, job_id), "the attempt's process is noted")
        os.kill(first.pid, signal.SIGSTOP)
        os.kill(attempt["pid"], signal.SIGSTOP)
        with supervising(engine, settings):
            # As above, of the driver that froze.
            wait_until(lambda: expired(engine, job_id)["token"] == 2, "a takeover")
            wait_until(lambda: job(engine, job_id)["state"] == JobState.SUCCEEDED, "another one finishes the job")
            wait_until(lambda: job(engine, job_id)["end_logged"], "the log has ended")
        before = visible(engine, job_id)
        scratch = Path(settings.runtime().scratch_dir)
        scratch.mkdir()
        (scratch / "go-on").touch()
        os.kill(attempt["pid"], signal.SIGCONT)
        log = Path(attempt["log_path"])
        wait_until(lambda: log.read_text().count("finish") >= 2, "the zombie has tried everything twice")
        os.kill(first.pid, signal.SIGCONT)
        wait_until(lambda: processes_of(job_id) == [], "its own supervisor asks it to stop", limit_s=10)
        answers = log.read_text().split("published 200\n")[1].splitlines()
        after = [line for line in answers if line != "heartbeat 200"]
        assert {line.partition(" ")[0] for line in after} == {"heartbeat", "commit", "finish"}
        assert {line.partition(" ")[2] for line in after} == {"409"}
        assert visible(engine, job_id) == before
    assert (job(engine, job_id)["token"], job(engine, job_id)["next_seq"]) == (2, 6)
