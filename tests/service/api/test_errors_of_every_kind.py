"""One body for all errors, wherever they are born, and nothing of what lies below."""

from __future__ import annotations

import base64
import json
from typing import Any

import anyio
import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from superbatch.formats.errors import CorruptFile
from superbatch_server.service.access.auth import COOKIE
from superbatch_server.service.access.body_limit import MAX_BODY_BYTES, MAX_BODY_BYTES_OF_PATH, SMALL_BODY_BYTES
from tests.service.api.world import TOKEN, URL, World, answered, problem
from tests.service.catalog.builders import claim_it, expire

MANIFEST = {"name": "pool", "root": "pool", "shards": [{"key": "a.tar"}]}


def test_an_unknown_path(world: World) -> None:
    problem(world.client.get("/v1/nothing"), "not_found", "'/v1/nothing'", "/docs")


def test_a_wrong_method_names_the_right_ones(world: World) -> None:
    response = world.client.delete("/v1/datasets")
    problem(response, "method_not_allowed", "DELETE")
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path", ["datasets/x", "models/x", "jobs/x", "jobs/x/manifest", "jobs/x/stats", "jobs/x/events"]
)
def test_an_unknown_object(world: World, path: str) -> None:
    problem(world.client.get(f"/v1/{path}"), "not_found", "got 'x'")


@pytest.mark.parametrize("path", ["datasets/x/shards", "jobs/x/lists/y", "jobs/x/consumers", "jobs/x/checkpoints"])
def test_an_unknown_object_of_an_object(world: World, path: str) -> None:
    problem(world.client.get(f"/v1/{path}"), "not_found", "got 'x'")


@pytest.mark.parametrize("path", ["datasets", "models", "jobs"])
def test_deleting_an_unknown_object(world: World, path: str) -> None:
    problem(world.client.delete(f"/v1/{path}/x"), "not_found", "got 'x'")


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_verb_on_an_unknown_job(world: World, verb: str) -> None:
    problem(world.client.post(f"/v1/jobs/x:{verb}", json={}), "not_found", "got 'x'")


def test_a_body_that_is_no_json(world: World) -> None:
    response = world.client.post("/v1/datasets", content=b"{nope", headers={"content-type": "application/json"})
    problem(response, "validation", "must be JSON")


def test_a_body_that_is_no_text(world: World) -> None:
    response = world.client.post("/v1/datasets", content=b"\xff\xfe{}", headers={"content-type": "application/json"})
    problem(response, "validation", "must be JSON")


def test_no_body_at_all(world: World) -> None:
    problem(world.client.post("/v1/datasets"), "validation", "must be given", "got nothing")


def test_a_missing_field_is_named(world: World) -> None:
    body = {name: value for name, value in MANIFEST.items() if name != "root"}
    problem(world.client.post("/v1/datasets", json=body), "validation", "root must be given; got nothing")


def test_an_unknown_field_is_named(world: World) -> None:
    body = MANIFEST | {"shards": [{"key": "a.tar", "colour": "red"}]}
    problem(world.client.post("/v1/datasets", json=body), "validation", "shards[0].colour is no field", "got 'red'")


def test_several_wrong_fields_are_all_listed(world: World) -> None:
    body = problem(world.client.post("/v1/datasets", json={"name": "", "root": "Bad Root"}), "validation", "2 more")
    assert {entry["field"] for entry in body["errors"]} == {"name", "root", "shards"}


def test_a_wrong_query_names_its_parameter(world: World) -> None:
    problem(world.client.get("/v1/jobs?page_size=0"), "validation", "query page_size", "got '0'")


@pytest.mark.parametrize("token", ["x", "%00", "e30", "WzEsMl0", "e1"])
def test_a_foreign_page_token(world: World, token: str) -> None:
    for path in ("datasets", "models", "jobs"):
        problem(world.client.get(f"/v1/{path}?page_token={token}"), "page_token_refused", "page_token")


@pytest.mark.parametrize(
    "position",
    [[10**30, "job_1"], [-1, "job_1"], [True, "job_1"], [1.5, "job_1"], [1, "\ud800"], [1, "job_\0"], [1, "' OR 1"]],
)
def test_a_page_token_of_our_form_with_other_values(world: World, position: list[Any]) -> None:
    token = base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")
    for path in ("datasets", "models", "jobs"):
        problem(world.client.get(f"/v1/{path}?page_token={token}"), "page_token_refused", "page_token")


def test_a_number_that_no_database_holds(world: World) -> None:
    shards = [{"key": "a.tar", "rows": 10**30}]
    problem(world.client.post("/v1/datasets", json=MANIFEST | {"shards": shards}), "validation", "shards[0].rows")
    f = {"points": [[0, 0.5], [10**30, 0.6]]}
    problem(world.client.post("/v1/jobs", json=world.spec(selection={"f": f})), "validation", "selection.f")


def test_a_foreign_page_token_of_events(world: World) -> None:
    path = f"/v1/jobs/{world.submit()}/events"
    problem(world.client.get(f"{path}?page_token=x"), "page_token_refused", "page_token")
    problem(world.client.get(f"{path}?page_token=e-1"), "page_token_refused", "page_token")


@pytest.mark.parametrize("seq", ["-1", "x", str(2**63)])
def test_a_number_that_no_seq_can_be(world: World, seq: str) -> None:
    problem(world.client.get(f"/v1/jobs/x/manifest?after={seq}"), "validation", "query after")


def test_a_body_above_the_limit(world: World) -> None:
    for path in ("/v1/datasets", "/v1/jobs"):
        limit = MAX_BODY_BYTES_OF_PATH.get(path, MAX_BODY_BYTES)
        problem(world.client.post(path, content=b" " * (limit + 1)), "body_too_large")


@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/jobs", "/internal/v1/jobs/x/attempts/1/segments", "/v1/nothing"])
def test_a_long_body_from_nobody_we_know_is_not_read(world: World, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}, {"Cookie": f"{COOKIE}=1.x"}):
        announced = {"Content-Length": str(SMALL_BODY_BYTES + 1)}
        for length in (announced, {"Transfer-Encoding": "chunked"}, {"Content-Length": "9" * 30}):
            assert status_of(world, asgi_scope(path, {**headers, **length})) == 401


def test_a_driver_may_send_a_long_body(world: World) -> None:
    world.submit()
    attempt = claim_it(world.engine)
    path = f"/internal/v1/jobs/{attempt.job_id}/attempts/{attempt.token}/cache:lookup"
    bearer = {"Authorization": f"Bearer {attempt.secret}"}
    keys = {"cache_keys": ["0" * 64] * 2000}
    assert answered(world.client_with(**bearer).post(path, json=keys), 200) == {"entries": []}
    expire(world.engine, attempt.job_id)
    claim_it(world.engine)
    problem(world.client_with(**bearer).post(path, json=keys), "unauthorized")


def asgi_scope(path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return a POST as a server hands it to the app."""
    named = {"Host": "127.0.0.1", "Content-Type": "application/json", **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": raw}
    return scope | {"query_string": b"", "http_version": "1.1", "scheme": "http", "client": None, "server": None}


def status_of(world: World, scope: dict[str, Any]) -> int:
    """Return the status of a request whose body must not be asked for."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    anyio.run(world.app, scope, receive, send)
    return int(sent[0]["status"])


def raising(world: World, error: Exception) -> httpx.Response:
    """Return the answer of a service with a route that fails so."""
    app = world.make_app()

    @app.get("/v1/fault")
    def fault() -> None:
        raise error

    return TestClient(app, base_url=URL, raise_server_exceptions=False).get("/v1/fault")


def test_an_unforeseen_fault_says_nothing_of_the_inside(world: World) -> None:
    body = problem(raising(world, RuntimeError("secret detail of a library")), "internal", "log")
    assert "secret" not in str(body)


def test_an_error_of_the_library_that_no_route_foresaw_is_a_fault(world: World) -> None:
    body = problem(raising(world, CorruptFile("rule; got secret")), "internal", "log")
    assert "secret" not in str(body)


def test_a_catalog_that_does_not_answer(world: World) -> None:
    locked = OperationalError("SELECT secret", {}, Exception("database is locked"))
    body = problem(raising(world, locked), "unavailable", "catalog")
    assert "secret" not in str(body)


def test_health_needs_no_credential_and_tells_of_a_dead_catalog(world: World) -> None:
    anybody = world.client_with()
    assert answered(anybody.get("/healthz"), 200) == {"status": "ok"}
    assert answered(anybody.get("/v1/health"), 200) == {"status": "ok"}
    world.lose_catalog()
    answer = anybody.get("/healthz")
    problem(answer, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_the_token_is_in_no_representation_of_the_deployment(world: World) -> None:
    assert TOKEN not in repr(world.app.state.deployment)
