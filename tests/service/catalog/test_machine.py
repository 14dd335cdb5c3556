"""Any order of submits, claims, crashes, zombies and commits: one job, one attempt, one log without a gap."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import select

from superbatch_server.schemas.attempts import Finish, Heartbeat, Release
from superbatch_server.schemas.errors import LeaseLost, WrongState
from superbatch_server.schemas.jobs import JobState, Phase
from superbatch_server.service.catalog import claims, lease, queue
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.catalog.tables import segments
from tests.service.catalog.builders import (
    claim_if,
    expire,
    held,
    job,
    log_chain,
    record_rows,
    segment_commit,
    set_learner,
    submit,
)
from tests.service.databases import fresh_catalog, needs_postgres

MAX_CRASHES = 1


@dataclass
class Expected:
    """What the model knows of a job."""

    state: str = "QUEUED"
    token: int = 0
    next_seq: int = 0
    crashes: int = 0
    waits: bool = False
    moved: bool = False
    trained_seq: int = 0
    expired: bool = False
    log: list[str] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """The catalog beside a model of it that fits on one page."""

    database = "sqlite"
    job_ids: Bundle[str] = Bundle("job_ids")
    attempts: Bundle[Attempt] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="superbatch-machine-"))
        self.closing = ExitStack()
        self.engine = self.closing.enter_context(fresh_catalog(self.database, self.folder))
        self.expected: dict[str, Expected] = {}

    def teardown(self) -> None:
        self.closing.close()
        shutil.rmtree(self.folder)

    @initialize(target=job_ids)
    def first(self) -> str:
        return self._submit()

    @rule(target=job_ids)
    def another(self) -> str:
        return self._submit()

    def _submit(self) -> str:
        job_id = submit(self.engine)
        self.expected[job_id] = Expected(log=log_chain(self.engine, job_id))
        return job_id

    @rule(target=attempts)
    def claim(self) -> Attempt | MultipleResults[Attempt]:
        may_run = {
            job_id: expected
            for job_id, expected in self.expected.items()
            if (expected.state == "QUEUED" and (expected.moved or not expected.waits))
            or (expected.state == "RUNNING" and expected.expired)
        }
        claimed = claim_if(self.engine, max_crashes=MAX_CRASHES)
        hung = {job_id for job_id, e in may_run.items() if e.state == "RUNNING" and e.crashes == MAX_CRASHES}
        for job_id in hung:
            # Jobs that hung too often fail while the queue is searched; those behind the claimed one stay.
            if job(self.engine, job_id)["state"] == JobState.FAILED:
                self.expected[job_id].state, self.expected[job_id].crashes = "FAILED", MAX_CRASHES + 1
        if claimed is None:
            assert hung == set(may_run)
            return multiple()
        expected = may_run[claimed.job_id]
        expected.crashes += expected.state == "RUNNING"
        expected.state, expected.expired, expected.waits = "RUNNING", False, False
        expected.token += 1
        assert claimed.token == expected.token
        return held(claimed)

    @rule(attempt=attempts)
    def heartbeat(self, attempt: Attempt) -> None:
        expected = self.expected[attempt.job_id]
        if self._holds(attempt):
            with write(self.engine) as connection:
                answer = lease.heartbeat(connection, attempt, Heartbeat(phase=Phase.COMPOSING), lease_ms=60_000)
            assert answer.cancel is (expected.state == "CANCELLING")
            expected.expired = False
        else:
            with pytest.raises(LeaseLost), write(self.engine) as connection:
                lease.heartbeat(connection, attempt, Heartbeat(phase=Phase.COMPOSING), lease_ms=60_000)

    @rule(attempt=attempts, num_batches=st.integers(1, 3))
    def commit(self, attempt: Attempt, num_batches: int) -> None:
        expected = self.expected[attempt.job_id]
        row = job(self.engine, attempt.job_id)
        num_batches = min(num_batches, row["num_batches"] - expected.next_seq)
        if num_batches == 0:
            return
        body = segment_commit(row, expected.next_seq, num_batches)
        if self._holds(attempt):
            record_rows(self.engine, attempt, expected.next_seq, num_batches)
            with write(self.engine) as connection:
                answer = commit_segment(connection, attempt, body)
            expected.next_seq += num_batches
            expected.crashes = 0
            assert answer.next_seq == expected.next_seq
        else:
            with pytest.raises(LeaseLost), write(self.engine) as connection:
                commit_segment(connection, attempt, body)

    @rule(attempt=attempts)
    def give_back(self, attempt: Attempt) -> None:
        expected = self.expected[attempt.job_id]
        wait = Release(waits_for="trainer", seen_trained_seq=expected.trained_seq, seen_checkpoint=None)
        repeats = expected.token == attempt.token and expected.state == "QUEUED" and expected.waits
        if not (self._holds(attempt) or repeats):
            with pytest.raises(LeaseLost), write(self.engine) as connection:
                lease.release(connection, attempt, wait)
            return
        with write(self.engine) as connection:
            lease.release(connection, attempt, wait)
        if expected.state == "CANCELLING":
            expected.state = "CANCELLED"
        elif not repeats:
            expected.state, expected.waits, expected.moved = "QUEUED", True, False
            expected.crashes, expected.expired = 0, False

    @rule(job_id=job_ids)
    def train(self, job_id: str) -> None:
        expected = self.expected[job_id]
        expected.trained_seq, expected.moved = expected.trained_seq + 1, True
        set_learner(self.engine, job_id, trained_seq=expected.trained_seq)

    @rule(attempt=attempts)
    def finish(self, attempt: Attempt) -> None:
        expected = self.expected[attempt.job_id]
        end = Finish(outcome="SUCCEEDED" if expected.next_seq == 6 else "FAILED")
        repeats = expected.token == attempt.token and expected.state == end.outcome
        if not (self._holds(attempt) or repeats):
            with pytest.raises(LeaseLost), write(self.engine) as connection:
                lease.finish(connection, attempt, end)
            return
        with write(self.engine) as connection:
            lease.finish(connection, attempt, end)
        is_cancelled = expected.state == "CANCELLING" and end.outcome == "FAILED"
        expected.state = "CANCELLED" if is_cancelled else end.outcome

    @rule(attempt=consumes(attempts))
    def driver_dies(self, attempt: Attempt) -> None:
        expected = self.expected[attempt.job_id]
        with write(self.engine) as connection:
            claims.attempt_ended(connection, attempt.job_id, attempt.token, "exited with 1", max_crashes=MAX_CRASHES)
        if self._holds(attempt):
            is_running = expected.state == "RUNNING"
            expected.crashes += is_running
            expected.expired = False
            too_many = expected.crashes > MAX_CRASHES
            expected.state = "CANCELLED" if not is_running else "FAILED" if too_many else "QUEUED"
            expected.waits = False

    @rule(job_id=job_ids)
    def lease_runs_out(self, job_id: str) -> None:
        if self.expected[job_id].state in ("RUNNING", "CANCELLING"):
            expire(self.engine, job_id)
            self.expected[job_id].expired = True

    @rule(job_id=job_ids)
    def cancel(self, job_id: str) -> None:
        expected = self.expected[job_id]
        if expected.state in ("SUCCEEDED", "FAILED"):
            with pytest.raises(WrongState), write(self.engine) as connection:
                queue.request_cancel(connection, job_id)
            return
        with write(self.engine) as connection:
            queue.request_cancel(connection, job_id)
        becomes = {"QUEUED": "CANCELLED", "RUNNING": "CANCELLING"}
        expected.state = becomes.get(expected.state, expected.state)

    @rule()
    def abandoned_are_cancelled(self) -> None:
        claims.cancel_abandoned(self.engine)
        for expected in self.expected.values():
            if expected.state == "CANCELLING" and expected.expired:
                expected.state = "CANCELLED"

    @rule(job_id=job_ids)
    def retry(self, job_id: str) -> None:
        expected = self.expected[job_id]
        if expected.state != "FAILED":
            with pytest.raises(WrongState), write(self.engine) as connection:
                queue.retry(connection, job_id)
            return
        with write(self.engine) as connection:
            queue.retry(connection, job_id)
        expected.state, expected.crashes, expected.waits, expected.expired = "QUEUED", 0, False, False

    def _holds(self, attempt: Attempt) -> bool:
        expected = self.expected[attempt.job_id]
        return expected.token == attempt.token and expected.state in ("RUNNING", "CANCELLING")

    @invariant()
    def the_catalog_is_as_expected(self) -> None:
        for job_id, expected in self.expected.items():
            row = job(self.engine, job_id)
            shown = (row["state"], row["token"], row["next_seq"], row["crashes"])
            assert shown == (expected.state, expected.token, expected.next_seq, expected.crashes)

    @invariant()
    def the_log_has_no_gap_and_never_changes(self) -> None:
        for job_id, expected in self.expected.items():
            chain = log_chain(self.engine, job_id)
            assert chain[: len(expected.log)] == expected.log
            assert len(chain) == expected.next_seq + 1
            expected.log = chain
            with read(self.engine) as connection:
                query = select(segments).where(segments.c.job_id == job_id).order_by(segments.c.first_seq)
                rows = connection.execute(query).mappings().all()
            stops = [row["first_seq"] + row["num_batches"] for row in rows]
            assert [row["first_seq"] for row in rows] == [0, *stops[:-1]][: len(rows)]


class PostgresQueueMachine(QueueMachine):
    """The same in the other database."""

    database = "postgresql"


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=20, stateful_step_count=40, deadline=None, derandomize=True)
TestPostgresQueueMachine = needs_postgres(PostgresQueueMachine.TestCase)
TestPostgresQueueMachine.settings = settings(max_examples=10, stateful_step_count=40, deadline=None, derandomize=True)
