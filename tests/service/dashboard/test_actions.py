"""Cancel and retry: a question, a plain form, and nobody else's page can press the button."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.jobs import get_job
from tests.service.dashboard.conftest import make_app, sign_in
from tests.service.dashboard.seed import Made

OWN = {"Origin": "http://testserver"}


@pytest.fixture
def client(own_engine: Engine, own: Made, tmp_path: Path) -> TestClient:
    return sign_in(TestClient(make_app(own_engine, tmp_path), follow_redirects=False), now_s=time.time())


def state_of(engine: Engine, job_id: str) -> str:
    with read(engine) as connection:
        return get_job(connection, job_id).state


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("running", ("cancel", "CANCELLING")),
        ("queued", ("cancel", "CANCELLED")),
        ("failed", ("retry", "QUEUED")),
    ],
)
def test_the_page_asks_and_the_form_does_it(
    client: TestClient, own_engine: Engine, own: Made, what: str, asked: tuple[str, str]
) -> None:
    job_id, (verb, after) = own.jobs[what], asked
    address = f"/jobs/{job_id}/{verb}"
    assert f'href="{address}"' in client.get(f"/jobs/{job_id}").text
    question = client.get(address)
    assert f'<form method="post" action="{address}">' in question.text
    assert 'type="submit"' in question.text
    assert state_of(own_engine, job_id) == what.upper(), "looking changes nothing"
    answer = client.post(address, headers=OWN)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/jobs/{job_id}")
    assert state_of(own_engine, job_id) == after


@pytest.mark.parametrize("origin", [{}, {"Origin": "http://evil.example"}, {"Origin": "http://testserver:81"}])
def test_a_form_of_another_origin_changes_nothing(
    client: TestClient, own_engine: Engine, own: Made, origin: dict[str, str]
) -> None:
    for what, verb in (("running", "cancel"), ("failed", "retry")):
        answer = client.post(f"/jobs/{own.jobs[what]}/{verb}", headers=origin)
        assert answer.status_code == 403
        assert "must come from the dashboard" in answer.text
    assert state_of(own_engine, own.jobs["running"]) == "RUNNING"
    assert state_of(own_engine, own.jobs["failed"]) == "FAILED"


def test_a_browser_may_tell_its_origin(client: TestClient, own: Made) -> None:
    """A page whose policy is no-referrer would make the browser send `Origin: null`, and the form would be refused."""
    policy = client.get(f"/jobs/{own.jobs['running']}/cancel").headers["Referrer-Policy"]
    assert policy == "same-origin"


def test_without_a_session_nothing_is_asked_or_done(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    anyone = TestClient(make_app(own_engine, tmp_path))
    address = f"/jobs/{own.jobs['running']}/cancel"
    assert anyone.get(address).status_code == 401
    assert anyone.post(address, headers=OWN).status_code == 401
    assert state_of(own_engine, own.jobs["running"]) == "RUNNING"


def test_what_cannot_be_done_is_not_offered_and_says_why(client: TestClient, own: Made) -> None:
    done, failed = own.jobs["done"], own.jobs["failed"]
    assert "/cancel" not in client.get(f"/jobs/{done}").text
    assert "/cancel" not in client.get(f"/jobs/{failed}").text
    answer = client.post(f"/jobs/{done}/retry", headers=OWN)
    assert answer.status_code == 409
    assert "only a FAILED job can be retried" in answer.text
    assert client.post("/jobs/job_none/cancel", headers=OWN).status_code == 404
    assert client.get("/jobs/job_none/cancel").status_code == 404


def test_repeating_a_cancellation_is_allowed(client: TestClient, own: Made) -> None:
    address = f"/jobs/{own.jobs['running']}/cancel"
    assert [client.post(address, headers=OWN).status_code for _ in range(2)] == [303, 303]
