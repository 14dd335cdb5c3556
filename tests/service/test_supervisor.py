"""The supervisor with drivers that work, crash, hang and hide; nothing of an attempt is ever left behind."""

from __future__ import annotations

import os
import signal

import pytest
from sqlalchemy import Engine

from superbatch.formats.bucket import LogEnd
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.queue import request_cancel
from superbatch_server.service.catalog.segments import job_prefix
from superbatch_server.service.settings import Settings
from superbatch_server.storage.store import open_store
from tests.service.catalog.builders import event_kinds, job, submit
from tests.service.running import (
    TOKEN,
    attempt_row,
    processes_of,
    supervising,
    wait_until,
    with_driver,
)


def wait_state(engine: Engine, job_id: str, state: JobState) -> None:
    """Wait until the job is in a state."""
    wait_until(lambda: job(engine, job_id)["state"] == state, f"job is {state}")


def cancel(engine: Engine, job_id: str) -> None:
    """Cancel a job."""
    with write(engine) as connection:
        request_cancel(connection, job_id)


def test_a_job_runs_to_its_end_and_its_log_ends_in_the_store(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    with supervising(engine, settings):
        wait_state(engine, job_id, JobState.SUCCEEDED)
        wait_until(lambda: job(engine, job_id)["end_logged"], "the end is in the store")
    row = job(engine, job_id)
    prefix = job_prefix(job_id, row["history_id"])
    store = open_store(settings.store_url)
    end = LogEnd.parse(store.get(f"{prefix}/log/end.json"))
    assert (end.end, end.final_seq, end.log_digest) == ("complete", 6, row["log_digest"])
    assert store.exists(f"{prefix}/log/000000000005.json"), "the fake driver wrote none"
    attempt = attempt_row(engine, job_id)
    assert attempt is not None
    assert attempt["outcome"] == "succeeded"
    assert processes_of(job_id) == []


def test_a_driver_is_given_its_attempt_and_no_secret_of_the_service(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERBATCH_TOKEN", TOKEN)
    monkeypatch.setenv("SUPERBATCH_DATABASE_URL", "postgresql://user:password@host/name")
    monkeypatch.setenv("SOME_SECRET", "x")
    job_id = submit(engine)
    with supervising(engine, settings):
        wait_state(engine, job_id, JobState.SUCCEEDED)
    log = (settings.logs_dir / f"{job_id}-1.log").read_text()
    names = {name for name in log.partition("environment:")[2].split() if name.startswith(("SUPERBATCH_", "SOME_"))}
    assert names == {
        "SUPERBATCH_SERVICE_URL",
        "SUPERBATCH_JOB",
        "SUPERBATCH_TOKEN",
        "SUPERBATCH_ATTEMPT_SECRET",
        "SUPERBATCH_ATTEMPT",
        "SUPERBATCH_SUPERVISOR",
    }


@pytest.mark.parametrize("mode", ["exit", "scatter_and_exit"])
def test_a_driver_that_crashes_at_once_fails_the_job_and_leaves_a_log(
    engine: Engine, settings: Settings, mode: str
) -> None:
    job_id = submit(engine)
    with supervising(engine, with_driver(settings, mode)):
        wait_state(engine, job_id, JobState.FAILED)
    row = job(engine, job_id)
    assert row["error_code"] == "driver_crashed"
    assert f"{job_id}-2.log" in row["error"]
    assert (settings.logs_dir / f"{job_id}-2.log").exists()
    assert processes_of(job_id) + processes_of(job_id, 2) == []


def test_a_command_that_does_not_exist_says_so_in_the_log(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    with supervising(engine, settings.model_copy(update={"driver_command": ("/no/such/driver",)})):
        wait_state(engine, job_id, JobState.FAILED)
    assert "/no/such/driver" in (settings.logs_dir / f"{job_id}-1.log").read_text()


@pytest.mark.parametrize("mode", ["beat", "stubborn", "scatter"])
def test_cancel_ends_the_job_and_leaves_no_process(engine: Engine, settings: Settings, mode: str) -> None:
    job_id = submit(engine)
    with supervising(engine, with_driver(settings, mode)):
        wait_until(lambda: job(engine, job_id)["phase"] == "composing", "the driver's first heartbeat")
        cancel(engine, job_id)
        wait_state(engine, job_id, JobState.CANCELLED)
        assert processes_of(job_id) == []
        wait_until(lambda: job(engine, job_id)["end_logged"], "the end is in the store")
    end = open_store(settings.store_url).get(f"{job_prefix(job_id, job(engine, job_id)['history_id'])}/log/end.json")
    assert LogEnd.parse(end).end == "cancelled"


def test_a_killed_driver_is_replaced_at_once(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    with supervising(engine, with_driver(settings, "scatter")):
        wait_until(lambda: len(processes_of(job_id)) == 3, "the driver and its children")
        attempt = wait_until(lambda: attempt_row(engine, job_id), "the attempt's process is noted")
        os.kill(attempt["pid"], signal.SIGKILL)
        wait_until(lambda: attempt_row(engine, job_id, 2), "a second attempt", limit_s=10)
        assert processes_of(job_id) == []
    assert job(engine, job_id)["crashes"] == 1


def test_a_supervisor_that_is_told_to_stop_takes_its_drivers_with_it(engine: Engine, settings: Settings) -> None:
    jobs = [submit(engine) for _ in range(2)]
    with supervising(engine, with_driver(settings, "stubborn")):
        wait_until(
            lambda: all(job(engine, job_id)["phase"] == "composing" for job_id in jobs), "the drivers' first heartbeats"
        )
    for job_id in jobs:
        row = job(engine, job_id)
        assert (row["state"], row["crashes"]) == (JobState.QUEUED, 0)
        assert processes_of(job_id) == []


def test_two_supervisors_share_a_catalog(engine: Engine, settings: Settings) -> None:
    jobs = [submit(engine, num_batches=2) for _ in range(5)]
    with supervising(engine, settings), supervising(engine, settings):
        for job_id in jobs:
            wait_state(engine, job_id, JobState.SUCCEEDED)
    for job_id in jobs:
        assert job(engine, job_id)["token"] == 1
        assert event_kinds(engine, job_id) == ["submitted", "attempt_began", "succeeded"]
