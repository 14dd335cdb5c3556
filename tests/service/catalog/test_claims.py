"""Who may run a job, and what becomes of it when its driver is gone."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, select

from superbatch_server.schemas.attempts import Finish, Heartbeat, Release
from superbatch_server.schemas.errors import LeaseLost, WrongState
from superbatch_server.schemas.jobs import JobState, Phase
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.service.catalog import claims, lease, queue
from superbatch_server.service.catalog.attempts import commit_cached
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.jobs import delete_job
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.tables import attempts
from tests.service.catalog.builders import (
    cache_entry,
    claim_if,
    claim_it,
    event_kinds,
    expire,
    job,
    set_checkpoint,
    set_learner,
    submit,
)

BEAT = Heartbeat(phase=Phase.COMPOSING, counters={"batches": 3})


def beat(engine: Engine, attempt: Attempt) -> bool:
    """Send a heartbeat and return whether to cancel."""
    with write(engine) as connection:
        return lease.heartbeat(connection, attempt, BEAT, lease_ms=60_000).cancel


def release(
    engine: Engine,
    attempt: Attempt,
    waits_for: str,
    *,
    trained_seq: int = 0,
    checkpoint: str | None = None,
    live: bool = True,
) -> None:
    """Release a job."""
    wait = Release.model_validate(
        {"waits_for": waits_for, "seen_trained_seq": trained_seq, "seen_checkpoint": checkpoint, "seen_live": live}
    )
    with write(engine) as connection:
        lease.release(connection, attempt, wait)


def crash(engine: Engine, attempt: Attempt, *, max_crashes: int = 2) -> None:
    """Let the driver of an attempt die."""
    with write(engine) as connection:
        claims.attempt_ended(connection, attempt.job_id, attempt.token, "killed by SIGKILL", max_crashes=max_crashes)


def outcomes(engine: Engine, job_id: str) -> list[str | None]:
    """Return how the attempts of a job ended."""
    with read(engine) as connection:
        query = select(attempts.c.outcome).where(attempts.c.job_id == job_id).order_by(attempts.c.token)
        return list(connection.execute(query).scalars())


def test_a_claim_gives_a_new_token_and_keeps_only_the_digest_of_its_secret(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    row = job(engine, job_id)
    assert (attempt.job_id, attempt.token, row["token"], row["state"]) == (job_id, 1, 1, JobState.RUNNING)
    assert attempt.secret not in str(row)
    assert attempt.secret not in repr(attempt)
    assert claim_if(engine) is None


def test_jobs_are_claimed_in_the_order_of_submission(engine: Engine) -> None:
    submitted = []
    for _ in range(3):
        submitted.append(submit(engine))
        with write(engine) as connection:
            connection.exec_driver_sql("UPDATE jobs SET created_ms = created_ms - 1")
    assert [claim_it(engine).job_id for _ in submitted] == submitted


def test_of_racing_supervisors_each_job_is_claimed_once(engine: Engine) -> None:
    submitted = {submit(engine) for _ in range(12)}
    claimed: list[str] = []
    gate = threading.Barrier(6)

    def claim_all(supervisor_id: str) -> None:
        gate.wait()
        while (found := claim_if(engine, supervisor_id=supervisor_id)) is not None:
            claimed.append(found.job_id)

    threads = [threading.Thread(target=claim_all, args=(f"supervisor_{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(submitted)


def test_an_expired_lease_is_taken_over_and_the_old_attempt_is_refused(engine: Engine) -> None:
    job_id = submit(engine)
    old = claim_it(engine)
    expire(engine, job_id)
    new = claim_it(engine, supervisor_id="supervisor_b")
    assert (new.job_id, new.token) == (job_id, 2)
    with pytest.raises(LeaseLost, match="attempt 2 is the newest"):
        beat(engine, old)
    assert beat(engine, new) is False
    assert outcomes(engine, job_id) == ["lease_expired", None]
    assert event_kinds(engine, job_id) == ["submitted", "attempt_began", "attempt_crashed", "taken_over"]


def test_an_expired_lease_that_nobody_claimed_is_renewed(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    expire(engine, job_id)
    assert beat(engine, attempt) is False
    assert claim_if(engine) is None
    assert (job(engine, job_id)["phase"], job(engine, job_id)["counters"]) == ("composing", '{"batches":3}')


def test_a_dead_drivers_job_is_claimable_at_once(engine: Engine) -> None:
    job_id = submit(engine)
    crash(engine, claim_it(engine))
    assert job(engine, job_id)["crashes"] == 1
    assert claim_it(engine).token == 2
    assert outcomes(engine, job_id) == ["killed by SIGKILL", None]


def test_too_many_crashes_in_a_row_fail_the_job_and_name_the_log(engine: Engine) -> None:
    job_id = submit(engine)
    for _ in range(3):
        claimed = claim_if(engine)
        assert claimed is not None
        with write(engine) as connection:
            claims.attempt_started(connection, claimed, pid=1, log_path=f"/logs/{claimed.token}.log")
        crash(engine, Attempt(claimed.job_id, claimed.token, claimed.secret))
    row = job(engine, job_id)
    assert (row["state"], row["error_code"]) == (JobState.FAILED, "driver_crashed")
    assert "at most 2 times in a row without progress; got 3" in row["error"]
    assert "Read /logs/3.log" in row["error"]


def test_a_job_whose_drivers_hang_again_and_again_fails_too(engine: Engine) -> None:
    job_id = submit(engine)
    for _ in range(3):
        assert claim_if(engine, max_crashes=2) is not None
        expire(engine, job_id)
    assert claim_if(engine, max_crashes=2) is None
    assert job(engine, job_id)["error_code"] == "driver_crashed"


def test_progress_resets_the_count_of_crashes(engine: Engine) -> None:
    job_id = submit(engine)
    crash(engine, claim_it(engine))
    attempt = claim_it(engine)
    with write(engine) as connection:
        commit_cached(connection, attempt, cache_entry("shard"))
    assert job(engine, job_id)["crashes"] == 0
    crash(engine, attempt)
    attempt = claim_it(engine)
    with write(engine) as connection:
        commit_cached(connection, attempt, cache_entry("shard"))
    assert job(engine, job_id)["crashes"] == 1, "a shard that was there already is no progress"


def test_a_driver_that_was_told_to_stop_has_not_crashed(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    with write(engine) as connection:
        claims.attempt_ended(connection, job_id, attempt.token, "exited with 0", crashed=False)
    row = job(engine, job_id)
    assert (row["state"], row["crashes"], row["phase"]) == (JobState.QUEUED, 0, None)


def test_the_end_of_an_older_attempt_changes_nothing(engine: Engine) -> None:
    job_id = submit(engine)
    old = claim_it(engine)
    expire(engine, job_id)
    claim_it(engine)
    before = job(engine, job_id)
    crash(engine, old)
    assert job(engine, job_id) == before


CP1, CP2 = f"checkpoint_{1:016x}", f"checkpoint_{2:016x}"


@pytest.mark.parametrize(
    ("waits_for", "seen", "then", "wakes"),
    [
        ("trainer", 5, {}, False),
        ("trainer", 5, {"trained_seq": 5}, False),
        ("trainer", 5, {"trained_seq": 6}, True),
        ("trainer", 5, {"trained_seq": 3}, True),  # a rewind
        ("trainer", 5, {"trained_seq": 6, "ttl_ms": -1}, False),  # no credit while its ttl has passed
        ("checkpoint", CP1, {}, False),
        ("checkpoint", CP1, {"ordinal": 2, "state": CheckpointState.RECEIVED}, True),
        ("checkpoint", CP1, {"ordinal": 2, "state": CheckpointState.ACTIVE}, True),
        ("checkpoint", CP1, {"ordinal": 2, "state": CheckpointState.REJECTED}, False),
        ("checkpoint", CP1, {"ordinal": 2, "state": CheckpointState.RECEIVED, "trained_seq": 0}, False),
        ("checkpoint", CP1, {"ordinal": 1, "state": CheckpointState.ORPHANED}, True),  # a rewind
        ("checkpoint", None, {}, True),  # there is one already
    ],
)
def test_a_waiting_job_is_claimed_only_when_what_it_waits_for_has_moved(
    engine: Engine, waits_for: str, seen: int | str | None, then: dict[str, object], wakes: bool
) -> None:
    job_id = submit(engine)
    set_learner(engine, job_id, trained_seq=5)
    set_checkpoint(engine, job_id, 1, CheckpointState.ACTIVE)
    attempt = claim_it(engine)
    if isinstance(seen, int):
        release(engine, attempt, waits_for, trained_seq=seen)
    else:
        release(engine, attempt, waits_for, trained_seq=5, checkpoint=seen)
    if "ordinal" in then:
        set_checkpoint(engine, job_id, **then)  # type: ignore[arg-type]
    elif then:
        set_learner(engine, job_id, **then)  # type: ignore[arg-type]
    assert job(engine, job_id)["phase"] == f"waiting_for_{waits_for}"
    assert (claim_if(engine) is not None) is wakes
    assert ("woken" in event_kinds(engine, job_id)) is wakes


def test_a_trainer_that_comes_back_after_its_ttl_wakes_the_job(engine: Engine) -> None:
    job_id = submit(engine)
    set_learner(engine, job_id, trained_seq=5, ttl_ms=-1)
    release(engine, claim_it(engine), "trainer", trained_seq=5)
    assert claim_if(engine) is None
    set_learner(engine, job_id, trained_seq=5)
    assert claim_if(engine) is not None


def test_a_trainer_that_came_back_while_the_job_was_released_wakes_it(engine: Engine) -> None:
    """The driver saw a ttl that had passed; the report that renewed it came before the release."""
    job_id = submit(engine)
    set_learner(engine, job_id, trained_seq=5)
    release(engine, claim_it(engine), "trainer", trained_seq=5, live=False)
    assert claim_if(engine) is not None


def test_the_first_trainer_with_nothing_trained_does_not_wake_the_job(engine: Engine) -> None:
    job_id = submit(engine)
    release(engine, claim_it(engine), "trainer", trained_seq=0)
    set_learner(engine, job_id, trained_seq=0)
    assert claim_if(engine) is None


def test_release_may_be_repeated_but_not_by_an_older_attempt(engine: Engine) -> None:
    job_id = submit(engine)
    old = claim_it(engine)
    release(engine, old, "trainer")
    release(engine, old, "trainer")
    set_learner(engine, job_id, trained_seq=1)
    claim_it(engine)
    with pytest.raises(LeaseLost):
        release(engine, old, "trainer")


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED"])
def test_finish_ends_the_job_and_may_be_repeated(engine: Engine, end: str) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    with write(engine) as connection:
        queue.update_job(connection, job_id, next_seq=6)
    body = Finish.model_validate({"outcome": end, "code": None if end == "SUCCEEDED" else "broken_shard"})
    for _ in range(2):
        with write(engine) as connection:
            assert lease.finish(connection, attempt, body) == end
    assert event_kinds(engine, job_id).count(end.lower()) == 1
    assert outcomes(engine, job_id) == [end.lower()]
    with pytest.raises(LeaseLost, match=f"the job is {end}"):
        beat(engine, attempt)


def test_a_job_cannot_succeed_before_all_batches_are_published(engine: Engine) -> None:
    submit(engine)
    attempt = claim_it(engine)
    with pytest.raises(WrongState, match="got 0 of 6"), write(engine) as connection:
        lease.finish(connection, attempt, Finish(outcome="SUCCEEDED"))


def test_the_secret_of_an_older_attempt_is_refused_with_the_new_token(engine: Engine) -> None:
    job_id = submit(engine)
    old = claim_it(engine)
    expire(engine, job_id)
    new = claim_it(engine)
    with pytest.raises(LeaseLost, match="another attempt's"):
        beat(engine, Attempt(job_id, new.token, old.secret))
    with pytest.raises(LeaseLost, match="no such job"):
        beat(engine, Attempt("job_0000000000000000", 1, old.secret))


def test_a_job_may_be_deleted_while_its_driver_is_still_leaving(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    with write(engine) as connection:
        lease.finish(connection, attempt, Finish(outcome="FAILED"))
        delete_job(connection, job_id)
    crash(engine, attempt)  # the supervisor's round must go on to the other jobs
    with pytest.raises(LeaseLost, match="no such job"):
        beat(engine, attempt)
