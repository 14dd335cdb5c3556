"""Postgres dies under load and comes back: clients are told 503, and nothing that was acknowledged is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import Engine, select

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.listener import listening
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.catalog.tables import attempts, events, jobs, segments, supervisors
from superbatch_server.service.settings import Settings
from tests.service.catalog.builders import (
    DATASET_ID,
    add_dataset,
    claim_it,
    job,
    log_chain,
    schedule_row,
    segment_commit,
    submit,
)
from tests.service.databases import needs_postgres
from tests.service.postgres import Server, new_engine
from tests.service.running import TOKEN, running_api, supervising, wait_until, with_driver

pytestmark = needs_postgres

NUM_RESTARTS = 2
LIMIT_S = 20.0
"""No request may take longer, whatever the database does."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(durable=True)
    yield server
    server.remove()


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    with server.database() as url, new_engine(url) as engine, listening(engine):
        migrate(engine)
        with write(engine) as connection:
            add_dataset(connection)
        yield engine


@dataclass
class Client:
    """Sends one request after the other, again while it is told 503, and notes what it was told otherwise."""

    settings: Settings
    bearer: str
    stop: threading.Event
    acknowledged: list[Any] = field(default_factory=list)
    told_503: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self, requests: Iterator[tuple[str, str, dict[str, Any], Callable[[Any], Any]]]) -> None:
        """Send until told to stop."""
        with httpx.Client(
            base_url=self.settings.service_url,
            headers={"Authorization": f"Bearer {self.bearer}"},
            trust_env=False,
            timeout=LIMIT_S,
        ) as http:
            for method, path, body, kept in requests:
                answer = self._answered(http, method, path, body)
                if answer is None:
                    return
                self.acknowledged.append(kept(answer))

    def _answered(self, http: httpx.Client, method: str, path: str, body: dict[str, Any]) -> Any:
        while not self.stop.is_set():
            try:
                answer = http.request(method, path, json=body)
            except httpx.HTTPError as error:
                self.faults.append(f"{path}: {error!r}")
                return None
            if answer.is_success:
                return answer.json() if answer.content else {}
            if (
                answer.status_code != 503
                or answer.json()["code"] != "unavailable"
                or "retry-after" not in answer.headers
            ):
                self.faults.append(f"{path}: {answer.status_code} {answer.text}")
                return None
            self.told_503 += 1
            time.sleep(0.02)
        return None


def submits() -> Iterator[tuple[str, str, dict[str, Any], Callable[[Any], Any]]]:
    """Submit jobs."""
    selection = {"method": "uniform", "b": 4, "N": 1, "f": 0.5}
    for seed in range(100_000):
        body = {"dataset": DATASET_ID, "selection": selection, "num_batches": 20, "seed": seed}
        yield "POST", "/v1/jobs", body, lambda answer: answer["id"]


def reports(attempt: Attempt) -> Iterator[tuple[str, str, dict[str, Any], Callable[[Any], Any]]]:
    """Add lines to a job's history."""
    base = f"/internal/v1/jobs/{attempt.job_id}/attempts/{attempt.token}"
    for number in range(100_000):
        message = f"event {number}"
        yield "POST", f"{base}/events", {"kind": "noted", "message": message}, lambda _, message=message: message


def commits(row: dict[str, Any], attempt: Attempt) -> Iterator[tuple[str, str, dict[str, Any], Callable[[Any], Any]]]:
    """Publish one batch after the other, each after its schedule row."""
    base = f"/internal/v1/jobs/{attempt.job_id}/attempts/{attempt.token}"
    for seq in range(row["num_batches"]):
        yield "POST", f"{base}/schedule", schedule_row(seq).model_dump(mode="json"), lambda _: None
        commit = segment_commit(row, seq).model_dump(mode="json")
        yield "POST", f"{base}/segments", commit, lambda answer, seq=seq: (seq, answer["log_digest"])


def test_no_acknowledged_write_is_lost_when_postgres_crashes_under_load(
    server: Server, engine: Engine, tmp_path: Path
) -> None:
    noted, published = (submit(engine, num_batches=100_000) for _ in range(2))
    first, second = claim_it(engine, lease_ms=600_000), claim_it(engine, lease_ms=600_000)
    assert (first.job_id, second.job_id) == (noted, published)
    stop = threading.Event()
    with running_api(engine, tmp_path) as settings:
        submitter, reporter, publisher = clients = [
            Client(settings, bearer, stop) for bearer in (TOKEN, first.secret, second.secret)
        ]
        work = [
            (submitter, submits()),
            (reporter, reports(first)),
            (publisher, commits(job(engine, published), second)),
        ]
        threads = [threading.Thread(target=client.run, args=(requests,)) for client, requests in work]
        for thread in threads:
            thread.start()
        wait_until(lambda: moved(clients, [0, 0, 0]), "every client is at work", limit_s=90)
        for _ in range(NUM_RESTARTS):
            before = [len(client.acknowledged) for client in clients]
            server.restart("immediate")
            wait_until(lambda before=before: moved(clients, before), "every client goes on", limit_s=90)
        stop.set()
        for thread in threads:
            thread.join()
    assert [client.faults for client in clients] == [[], [], []]
    assert sum(client.told_503 for client in clients) >= NUM_RESTARTS
    with read(engine) as connection:
        there = set(connection.execute(select(jobs.c.id)).scalars())
        messages = set(connection.execute(select(events.c.message).where(events.c.job_id == noted)).scalars())
        seqs = list(
            connection.execute(
                select(segments.c.first_seq).where(segments.c.job_id == published).order_by(segments.c.first_seq)
            ).scalars()
        )
    assert set(submitter.acknowledged) <= there
    assert set(reporter.acknowledged) <= messages
    chain = log_chain(engine, published)
    told = [each for each in publisher.acknowledged if each is not None]
    assert [seq for seq, _ in told] == list(range(len(told)))
    assert all(chain[seq + 1] == digest for seq, digest in told)
    assert seqs == list(range(len(seqs))), "published once, without a gap"
    assert len(told) <= len(seqs) <= len(told) + 1
    print({"acknowledged": [len(c.acknowledged) for c in clients], "told 503": [c.told_503 for c in clients]})


def moved(clients: list[Client], before: list[int]) -> bool:
    """Claim that every client was acknowledged some more, or has met a fault."""
    return all(len(c.acknowledged) > n + 3 or c.faults for c, n in zip(clients, before, strict=True))


def test_supervisor_and_driver_go_on_after_a_crash_of_postgres(server: Server, engine: Engine, tmp_path: Path) -> None:
    with (
        running_api(engine, tmp_path) as settings,
        supervising(engine, with_driver(settings, "stubborn")) as supervisor,
    ):
        job_id = submit(engine)
        wait_until(lambda: job(engine, job_id)["phase"] == "composing", "the driver's first heartbeat")
        seen = seen_ms(engine, supervisor.id)
        server.restart("immediate")
        wait_until(lambda: answered(engine), "the catalog answers")
        renewed_ms = job(engine, job_id)["lease_until_ms"]
        wait_until(lambda: job(engine, job_id)["lease_until_ms"] > renewed_ms, "the driver renews its lease")
        wait_until(lambda: seen_ms(engine, supervisor.id) > seen, "the supervisor's heart beats")
        other = submit(engine)
        wait_until(lambda: job(engine, other)["state"] == JobState.RUNNING, "the supervisor claims")
        assert job(engine, job_id)["token"] == 1, "nobody took the job from its driver"
    with read(engine) as connection:
        assert connection.execute(select(attempts.c.outcome).where(attempts.c.job_id == job_id)).scalars().all() != []


def answered(engine: Engine) -> bool:
    """Claim that a query succeeds."""
    try:
        with read(engine) as connection:
            return bool(connection.execute(select(1)).scalar_one())
    except Exception:
        return False


def seen_ms(engine: Engine, supervisor_id: str) -> int:
    """Return when a supervisor was last seen; 0 for never."""
    with read(engine) as connection:
        query = select(supervisors.c.seen_ms).where(supervisors.c.id == supervisor_id)
        return connection.execute(query).scalar_one_or_none() or 0


def test_a_request_to_a_database_that_is_away_is_answered_soon(server: Server, engine: Engine, tmp_path: Path) -> None:
    with (
        running_api(engine, tmp_path) as settings,
        httpx.Client(
            base_url=settings.service_url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        ) as http,
    ):
        assert http.get("/v1/jobs").status_code == 200
        server.stop("immediate")
        try:
            for path in ("/v1/jobs", "/healthz", "/v1/jobs/job_0000000000000000/manifest?wait=5", "/"):
                began_s = time.monotonic()
                answer = http.get(path, timeout=LIMIT_S)
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True), path
                assert time.monotonic() - began_s < 10, path
        finally:
            server.start()
        wait_until(lambda: http.get("/v1/jobs").status_code == 200, "it answers again")
