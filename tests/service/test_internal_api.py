"""The internal API over HTTP: the attempt's own secret and nothing else opens it, and every call is fenced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from sqlalchemy import Engine

from superbatch_server.schemas.attempts import (
    AttemptBundle,
    CacheFound,
    Finished,
    HeartbeatAnswer,
    RefreshState,
    SegmentCommitted,
)
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.events import list_events
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.settings import Settings
from tests.service.catalog.builders import (
    cache_entry,
    claim_it,
    expire,
    job,
    schedule_row,
    segment_commit,
    set_checkpoint,
    set_learner,
    sha,
    submit,
)
from tests.service.running import TOKEN


class Driver:
    """An attempt's side of the API."""

    def __init__(self, settings: Settings, attempt: Attempt) -> None:
        self._base = f"/internal/v1/jobs/{attempt.job_id}/attempts/{attempt.token}"
        self._http = httpx.Client(
            base_url=settings.service_url, headers={"Authorization": f"Bearer {attempt.secret}"}, trust_env=False
        )

    def call(self, method: str, path: str = "", body: BaseModel | dict[str, Any] | None = None) -> httpx.Response:
        """Send a body."""
        sent = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        return self._http.request(method, self._base + path, json=sent)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


@pytest.fixture
def driver(engine: Engine, settings: Settings) -> Iterator[Driver]:
    submit(engine, num_batches=2)
    driver = Driver(settings, claim_it(engine))
    yield driver
    driver.close()


FINISH = {"outcome": "FAILED", "code": "broken_shard", "message": "no tar"}
CALLS: list[tuple[str, str, BaseModel | dict[str, Any] | None]] = [
    ("GET", "", None),
    ("POST", "/heartbeat", {"phase": "indexing", "counters": {"rows": 3}}),
    ("POST", "/events", {"kind": "noted", "message": "hello", "fields": {"rows": 3}}),
    ("GET", "/refresh", None),
    ("PUT", "/numerics", {"profile": {"torch": "2.13"}, "digest": sha("profile")}),
    (
        "PUT",
        "/pool",
        {"eligible_digest": sha("set"), "rows": 100, "eligible": 100, "per_source": {}, "quarantined": {}},
    ),
    ("POST", "/cache:lookup", {"cache_keys": [sha("shard")]}),
    ("POST", "/cache", cache_entry("shard")),
    ("POST", "/schedule", schedule_row(0)),
    ("POST", "/release", {"waits_for": "trainer", "seen_trained_seq": 0, "seen_checkpoint": None}),
    ("POST", "/finish", FINISH),
]


def test_every_call_of_an_attempt_that_lost_its_lease_is_answered_409(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    old = Driver(settings, claim_it(engine))
    expire(engine, job_id)
    claim_it(engine)
    before = job(engine, job_id)
    for method, path, body in [*CALLS, ("POST", "/segments", segment_commit(before, 0))]:
        answer = old.call(method, path, body)
        assert (answer.status_code, answer.json()["code"]) == (409, "lease_lost"), path
    old.close()
    assert job(engine, job_id) == before


def test_a_driver_publishes_a_job_over_http(engine: Engine, driver: Driver) -> None:
    bundle = AttemptBundle.model_validate(driver.call("GET").json())
    beat = HeartbeatAnswer.model_validate(
        driver.call("POST", "/heartbeat", {"phase": "composing", "counters": {}}).json()
    )
    assert (beat.lease_s, beat.cancel) == (bundle.runtime.lease_s, False)
    for seq in range(bundle.spec.num_batches):
        assert driver.call("POST", "/schedule", schedule_row(seq)).status_code == 200
        commit = segment_commit(job(engine, bundle.job_id), seq)
        committed = SegmentCommitted.model_validate(driver.call("POST", "/segments", commit).json())
        assert committed.next_seq == seq + 1
    finished = Finished.model_validate(driver.call("POST", "/finish", {"outcome": "SUCCEEDED"}).json())
    assert finished.state == "SUCCEEDED"
    assert finished.log_files[-1].key.endswith("/log/end.json")


def test_the_other_calls_answer_what_they_promise(engine: Engine, driver: Driver) -> None:
    job_id = AttemptBundle.model_validate(driver.call("GET").json()).job_id
    for method, path, body in CALLS[1:6]:
        assert driver.call(method, path, body).status_code in (200, 204)
    with read(engine) as connection:
        noted = [event for event in list_events(connection, job_id, after=0, limit=100) if event.kind == "noted"]
    assert [(event.message, event.fields) for event in noted] == [("hello", {"rows": 3})]
    assert CacheFound.model_validate(driver.call(*CALLS[6]).json()).entries == []
    assert driver.call(*CALLS[7]).json() == cache_entry("shard").model_dump(mode="json")
    loser = cache_entry("shard", object_key="cache/loser.parquet")
    assert driver.call("POST", "/cache", loser).json()["object_key"] == "cache/shard.parquet"
    other = {"profile": {"torch": "2.15"}, "digest": sha("other")}
    answer = driver.call("PUT", "/numerics", other)
    assert (answer.status_code, answer.json()["code"]) == (409, "numerics_changed")


def test_refresh_shows_credit_and_a_checkpoint_that_is_then_verified(engine: Engine, driver: Driver) -> None:
    job_id = AttemptBundle.model_validate(driver.call("GET").json()).job_id
    set_learner(engine, job_id, trained_seq=1)
    checkpoint_id = set_checkpoint(engine, job_id, 1, CheckpointState.RECEIVED)
    state = RefreshState.model_validate(driver.call("GET", "/refresh").json())
    assert (state.consumer_trained_seq, state.consumer_live, state.active) == (1, True, None)
    assert state.unverified is not None
    again = RefreshState.model_validate(driver.call("GET", "/refresh").json())
    assert again.unverified is not None
    assert (again.unverified.id, again.unverified.state) == (checkpoint_id, CheckpointState.VERIFYING)
    verdict = driver.call("POST", f"/checkpoints/{checkpoint_id}:verdict", {"ok": True, "reason": None})
    assert verdict.json()["state"] == "ACTIVE"
    assert RefreshState.model_validate(driver.call("GET", "/refresh").json()).active is not None


def test_only_the_attempts_own_secret_opens_it(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    claim_it(engine)
    url = f"{settings.service_url}/internal/v1/jobs/{job_id}/attempts/1"
    refused = {
        "": (401, "unauthorized"),
        "Basic abc": (401, "unauthorized"),
        f"Bearer {TOKEN}": (409, "lease_lost"),
        "Bearer somebody-elses": (409, "lease_lost"),
    }
    with httpx.Client(trust_env=False) as client:
        for header, expected in refused.items():
            answer = client.get(url, headers={"Authorization": header} if header else {})
            assert (answer.status_code, answer.json()["code"]) == expected, header


def test_the_attempts_secret_opens_nothing_else(engine: Engine, settings: Settings) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {attempt.secret}"}) as client:
        assert client.get(f"{settings.service_url}/v1/jobs/{job_id}").status_code == 401


def test_a_body_of_another_form_is_refused(driver: Driver) -> None:
    answer = driver.call("POST", "/heartbeat", {"phase": "dreaming"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
