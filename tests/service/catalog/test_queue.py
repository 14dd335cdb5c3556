"""Submission, cancellation and retry."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine

from superbatch.formats.digests import log_digest_start
from superbatch_server.schemas.attempts import Finish, Heartbeat
from superbatch_server.schemas.errors import NotFound, WrongState
from superbatch_server.schemas.jobs import CurateSpec, JobState, Phase
from superbatch_server.service.catalog import claims, lease, queue
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.lease import Attempt
from tests.service.catalog.builders import claim_if, claim_it, event_kinds, expire, job, log_chain, spec, submit


def finish_failed(engine: Engine, attempt: Attempt) -> None:
    """Let an attempt give up."""
    with write(engine) as connection:
        lease.finish(connection, attempt, Finish(outcome="FAILED", code="broken_shard", message="shard 3 is no tar"))


def cancel(engine: Engine, job_id: str) -> str:
    """Cancel and return the state."""
    with write(engine) as connection:
        return str(queue.request_cancel(connection, job_id)["state"])


def test_a_submitted_job_has_an_empty_log_that_begins_with_its_history(engine: Engine) -> None:
    job_id = submit(engine, seed=7)
    row = job(engine, job_id)
    assert re.fullmatch(r"job_[0-9a-f]{16}", job_id)
    assert re.fullmatch(r"hist_[0-9a-f]{16}", row["history_id"])
    assert (row["state"], row["next_seq"], row["token"]) == (JobState.QUEUED, 0, 0)
    assert log_chain(engine, job_id) == [row["log_digest"]] == [log_digest_start(job_id, row["history_id"]).hex()]
    assert CurateSpec.model_validate_json(row["spec"]) == spec(seed=7)


def test_cancelling_a_queued_job_ends_it_and_may_be_repeated(engine: Engine) -> None:
    job_id = submit(engine)
    assert cancel(engine, job_id) == JobState.CANCELLED
    with pytest.raises(WrongState, match="it is CANCELLED"), write(engine) as connection:
        queue.retry(connection, job_id)
    assert cancel(engine, job_id) == JobState.CANCELLED
    assert claim_if(engine) is None
    assert event_kinds(engine, job_id) == ["submitted", "cancelled"]


def test_cancelling_a_running_job_asks_its_driver_and_ends_with_it(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    assert [cancel(engine, job_id), cancel(engine, job_id)] == [JobState.CANCELLING] * 2
    with write(engine) as connection:
        assert lease.heartbeat(connection, attempt, Heartbeat(phase=Phase.COMPOSING), lease_ms=1000).cancel is True
    with write(engine) as connection:
        claims.attempt_ended(connection, job_id, attempt.token, "exited with 0")
    assert job(engine, job_id)["state"] == JobState.CANCELLED
    assert event_kinds(engine, job_id) == ["submitted", "attempt_began", "cancel_requested", "cancelled"]


def test_a_cancelled_job_that_nobody_runs_any_more_ends_with_its_lease(engine: Engine) -> None:
    job_id = submit(engine)
    claim_it(engine)
    cancel(engine, job_id)
    claims.cancel_abandoned(engine)
    assert job(engine, job_id)["state"] == JobState.CANCELLING
    expire(engine, job_id)
    assert claim_if(engine) is None
    claims.cancel_abandoned(engine)
    assert job(engine, job_id)["state"] == JobState.CANCELLED


def test_a_failure_during_cancellation_is_a_cancellation(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    cancel(engine, job_id)
    finish_failed(engine, attempt)
    assert job(engine, job_id)["state"] == JobState.CANCELLED


def test_a_failed_job_is_retried_with_the_same_history(engine: Engine) -> None:
    job_id = submit(engine)
    history_id = job(engine, job_id)["history_id"]
    finish_failed(engine, claim_it(engine))
    assert job(engine, job_id)["error"] == "shard 3 is no tar"
    with pytest.raises(WrongState, match="it is FAILED"):
        cancel(engine, job_id)
    with write(engine) as connection:
        row = queue.retry(connection, job_id)
    assert (row["state"], row["error"], row["history_id"]) == (JobState.QUEUED, None, history_id)
    assert claim_it(engine).token == 2


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED])
def test_only_a_failed_job_can_be_retried(engine: Engine, state: JobState) -> None:
    job_id = submit(engine)
    with write(engine) as connection:
        queue.update_job(connection, job_id, state=state)
    with pytest.raises(WrongState, match=f"it is {state}"), write(engine) as connection:
        queue.retry(connection, job_id)


def test_an_unknown_job_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound, match="job_0"):
        cancel(engine, "job_0")
