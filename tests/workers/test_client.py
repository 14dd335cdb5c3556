"""The driver's client: what it repeats, what it passes on, and what ends the attempt."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from superbatch.formats.errors import ServiceError, ServiceUnreachable
from superbatch_server.schemas.attempts import CacheEntry, Heartbeat
from superbatch_server.schemas.errors import LeaseLost
from superbatch_server.schemas.jobs import Phase
from superbatch_server.workers.client import LOOKUP_KEYS, AttemptClient

STATE = {"consumer_trained_seq": 3, "consumer_live": True, "active": None, "unverified": None}


def client_of(answer: Callable[[httpx.Request], httpx.Response], *, patience_s: float = 30.0) -> AttemptClient:
    return AttemptClient(
        "http://service:1/",
        job="job_1",
        token=7,
        secret="s3",
        patience_s=patience_s,
        transport=httpx.MockTransport(answer),
        pause=lambda seconds: None,
    )


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "no; got 1 (job_1). Stop."})


def test_calls_name_the_attempt_and_carry_its_secret() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=STATE)

    assert client_of(answer).refresh().consumer_trained_seq == 3
    assert str(seen[0].url) == "http://service:1/internal/v1/jobs/job_1/attempts/7/refresh"
    assert seen[0].headers["Authorization"] == "Bearer s3"


def test_a_restart_of_the_service_is_survived() -> None:
    answers = iter([httpx.ConnectError("refused"), httpx.Response(503), httpx.ReadError("cut"), STATE])

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    assert client_of(answer).refresh().consumer_trained_seq == 3


def test_a_service_that_stays_away_ends_the_patience() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServiceUnreachable, match="refused"):
        client_of(answer, patience_s=0.0).refresh()


def test_a_lost_lease_is_told_apart_from_other_refusals() -> None:
    with pytest.raises(LeaseLost):
        client_of(lambda request: problem(409, "lease_lost")).refresh()
    with pytest.raises(ServiceError) as raised:
        client_of(lambda request: problem(409, "wrong_seq")).refresh()
    assert (raised.value.status, raised.value.problem_code) == (409, "wrong_seq")


def test_a_heartbeat_is_tried_once() -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(500)

    with pytest.raises(ServiceUnreachable, match="answer 500"):
        client_of(answer).heartbeat(Heartbeat(phase=Phase.COMPOSING), timeout_s=1)
    assert len(calls) == 1


def test_many_cache_keys_are_looked_up_in_several_calls() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys = json.loads(request.content)["cache_keys"]
        sizes.append(len(keys))
        entry = CacheEntry(
            cache_key=keys[0], kind="index", object_key="cache/x", bytes=1, sha256="0" * 64, rows=1, quarantined={}
        )
        return httpx.Response(200, json={"entries": [entry.model_dump()]})

    keys = [f"{i:064x}" for i in range(LOOKUP_KEYS + 3)]
    found = client_of(answer).lookup(keys)
    assert sizes == [LOOKUP_KEYS, 3]
    assert [entry.cache_key for entry in found] == [keys[0], keys[LOOKUP_KEYS]]
