"""Each request has an id and a line in the log; no secret is in any of them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from superbatch_server.service.access.auth import COOKIE, new_login_code, new_session
from superbatch_server.service.catalog.claims import claim
from superbatch_server.service.watching.log_lines import LineFormatter, Redactor
from superbatch_server.service.watching.observation import REQUEST_ID
from tests.service.api.world import TOKEN, URL, World, answered, problem


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Catch what the API logs as JSON, without any secret told to the redactor: patterns must do."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("json", Redactor()))
    logger = logging.getLogger("superbatch")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_request_has_a_line_with_its_id_job_status_and_duration(one_world: World, lines: io.StringIO) -> None:
    job_id = one_world.submit()
    lines.truncate(0)
    lines.seek(0)
    response = one_world.client.get(f"/v1/jobs/{job_id}?x=1", headers={REQUEST_ID: "from-the-client.1"})
    assert response.headers[REQUEST_ID] == "from-the-client.1"
    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert line["request_id"] == "from-the-client.1"
    assert (line["job"], line["method"], line["path"], line["status"]) == (job_id, "GET", f"/v1/jobs/{job_id}", 200)
    assert line["duration_ms"] > 0
    assert line["bytes"] == len(response.content)


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "a\tb", "<script>", "ä"])
def test_an_id_that_is_no_word_is_replaced(one_world: World, given: str) -> None:
    response = one_world.client.get("/v1/roots", headers={REQUEST_ID.encode(): given.encode("latin-1")})
    assert re.fullmatch("[0-9a-f]{16}", response.headers[REQUEST_ID])


def test_a_method_that_is_none_is_logged_as_other(one_world: World, lines: io.StringIO) -> None:
    one_world.client.request("A-" * 15_500, "/")
    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert line["method"] == "other"


def test_every_answer_has_an_id_and_says_nosniff(one_world: World) -> None:
    answers = [
        one_world.client.get("/nothing"),
        one_world.client_with().get("/v1/roots"),
        one_world.client.get("/v1/roots", headers={"Host": "evil.example"}),
        one_world.client.get("/healthz"),
        one_world.client.get("/"),
    ]
    for answer in answers:
        assert answer.headers[REQUEST_ID]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert len({answer.headers[REQUEST_ID] for answer in answers}) == len(answers)


def test_a_fault_is_logged_under_the_id_of_its_answer(one_world: World, lines: io.StringIO) -> None:
    app = one_world.make_app()

    @app.get("/v1/fault")
    def fault() -> None:
        raise RuntimeError(f"inside: Authorization: Bearer {TOKEN}")

    response = TestClient(app, base_url=URL).get("/v1/fault")
    problem(response, "internal", "X-Request-Id")
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    failed = next(line for line in logged if "error" in line)
    assert failed["request_id"] == response.headers[REQUEST_ID]
    assert "RuntimeError: inside" in failed["error"]
    assert TOKEN not in lines.getvalue()


def test_no_secret_of_a_whole_session_is_logged(one_world: World, lines: io.StringIO) -> None:
    world = one_world
    code, cookie = new_login_code(world.settings.data_dir), new_session(TOKEN, now_s=1e12)
    token = world.post("/v1/tokens", {"name": "n", "scope": "admin"}, status=201)
    browser = world.client_with()
    assert browser.get(f"/login?code={code}").status_code == 303
    browser.get(f"/login?code={code}")
    world.client_with(Cookie=f"{COOKIE}={cookie}").get("/v1/jobs")
    bearer = world.client_with(Authorization=f"Bearer {token['secret']}")
    answered(bearer.get("/v1/jobs?access_token=" + TOKEN), 200)
    bearer.get("/nothing?" + TOKEN)
    world.client_with(Authorization="Bearer wrong-but-secret").get("/v1/jobs")
    world.submit()
    claimed = claim(world.engine, "supervisor_x", "host", 60_000)
    assert claimed is not None
    path = f"/internal/v1/jobs/{claimed.job_id}/attempts/{claimed.token}"
    driver = world.client_with(Authorization=f"Bearer {claimed.secret}")
    answered(driver.get(path), 200)
    problem(driver.post(f"{path}/heartbeat", json={"nonsense": claimed.secret}), "validation")
    text = lines.getvalue()
    internal = [json.loads(line) for line in text.splitlines() if f"{path}/heartbeat" in line]
    assert (internal[0]["job"], internal[0]["attempt"]) == (claimed.job_id, str(claimed.token))
    secrets = [TOKEN, code, cookie, token["secret"], claimed.secret, "wrong-but-secret", cookie.partition(".")[2]]
    assert [secret for secret in secrets if secret in text] == []
    assert len(text.splitlines()) > 8
