"""Access tokens: made once, of a scope, for a time; refused when deleted; their secrets are kept nowhere."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from superbatch_server.schemas.tokens import Scope
from superbatch_server.service.access.auth import COOKIE, new_session
from superbatch_server.service.access.credentials import OWN, REMEMBERED_S, KnownTokens
from superbatch_server.service.access.scopes import OPEN_ROUTES, SCOPE_OF_ROUTE, scope_needed, table_of, template_of
from superbatch_server.service.catalog import tables
from superbatch_server.service.catalog.engine import read, write
from tests.service.api.world import TOKEN, World, answered, problem

KEPT = Path(__file__).parents[3] / "docs/openapi.json"


def made(world: World, scope: str, **body: Any) -> dict[str, Any]:
    return world.post("/v1/tokens", {"name": "of the tests", "scope": scope} | body, status=201)


def holding(world: World, token: dict[str, Any]) -> Any:
    return world.client_with(Authorization=f"Bearer {token['secret']}")


def test_a_token_of_scope_read_looks_and_changes_nothing(world: World) -> None:
    reader = holding(world, made(world, "read"))
    job_id = world.submit()
    answered(reader.get(f"/v1/jobs/{job_id}"), 200)
    for verb in ("cancel", "retry"):
        problem(reader.post(f"/v1/jobs/{job_id}:{verb}"), "forbidden", "scope admin", "scope read")
    problem(reader.put(f"/v1/jobs/{job_id}/consumers/x", json={}), "forbidden", "scope trainer")
    problem(reader.delete(f"/v1/jobs/{job_id}"), "forbidden", "scope admin")
    problem(reader.get("/v1/tokens"), "forbidden", "scope admin")


def test_a_token_of_scope_trainer_trains_and_submits_nothing(world: World) -> None:
    trainer = holding(world, made(world, "trainer"))
    job_id = world.submit()
    answered(trainer.get(f"/v1/jobs/{job_id}/manifest"), 200)
    answered(trainer.put(f"/v1/jobs/{job_id}/consumers/x", json=world.report(job_id)), 200)
    problem(trainer.post("/v1/jobs", json=world.spec()), "forbidden", "scope admin", "scope trainer")
    problem(trainer.post(f"/v1/jobs/{job_id}/exclusions", json={"uids": ["0" * 32]}), "forbidden", "scope admin")


def test_a_long_body_is_read_only_for_who_may_send_it(world: World) -> None:
    long = b"[" + b"{}," * (40 << 10)  # is no JSON: who is told so was read
    headers = {"Content-Type": "application/json"}
    for scope, path, needed in (
        ("read", "/v1/jobs", "admin"),
        ("trainer", "/v1/jobs", "admin"),
        ("read", "/v1/jobs/x/checkpoints", "trainer"),
        ("trainer", "/internal/v1/jobs/x/attempts/1/segments", "admin"),
        ("trainer", "/nothing", "admin"),
    ):
        holder = holding(world, made(world, scope))
        problem(holder.post(path, content=long, headers=headers), "forbidden", f"scope {needed}", f"scope {scope}")
    trainer = holding(world, made(world, "trainer"))
    problem(trainer.post("/v1/jobs/x/checkpoints", content=long, headers=headers), "validation", "must be JSON")
    problem(world.client.post("/v1/jobs", content=long, headers=headers), "validation", "must be JSON")


def test_a_token_of_scope_admin_does_everything(world: World) -> None:
    admin = holding(world, made(world, "admin"))
    answered(admin.post("/v1/jobs", json=world.spec()), 202)
    answered(admin.post("/v1/tokens", json={"name": "next", "scope": "read"}), 201)


def test_the_secret_is_shown_once_and_kept_nowhere(world: World) -> None:
    headers = {"Idempotency-Key": "make-one"}
    first = made_with(world, headers)
    again = made_with(world, headers)
    assert first["secret"].startswith("sbt_")
    assert again == first | {"secret": None}
    assert len(world.get("/v1/tokens")["tokens"]) == 1
    assert first["secret"] not in json.dumps(world.get("/v1/tokens"))
    with read(world.engine) as connection:
        for table in (tables.access_tokens, tables.idempotency):
            assert first["secret"] not in str(connection.execute(select(table)).all())


def made_with(world: World, headers: dict[str, str]) -> dict[str, Any]:
    response = world.client.post("/v1/tokens", json={"name": "n", "scope": "read"}, headers=headers)
    assert response.headers["cache-control"] == "no-store"
    return answered(response, 201)


def test_a_deleted_token_is_refused_at_once(world: World) -> None:
    token = made(world, "read")
    reader = holding(world, token)
    answered(reader.get("/v1/jobs"), 200)
    assert world.client.delete(f"/v1/tokens/{token['id']}").status_code == 204
    problem(reader.get("/v1/jobs"), "unauthorized", "has not ended")
    problem(world.client.delete(f"/v1/tokens/{token['id']}"), "not_found", token["id"])


def test_another_process_forgets_a_deleted_token_within_a_second(world: World) -> None:
    token, now_s = made(world, "read"), [0.0]
    other = KnownTokens(world.engine, TOKEN, clock=lambda: now_s[0])
    assert other.find(token["secret"]) is not None
    world.client.delete(f"/v1/tokens/{token['id']}")
    assert other.find(token["secret"]) is not None, "it is remembered, so that pollers do not ask the catalog"
    now_s[0] += REMEMBERED_S
    assert other.find(token["secret"]) is None
    assert REMEMBERED_S < 1


def test_a_token_ends_when_it_expires(world: World) -> None:
    token = made(world, "read", expires_days=1)
    assert not world.get("/v1/tokens")["tokens"][0]["is_expired"]
    with write(world.engine) as connection:
        connection.execute(update(tables.access_tokens).values(expires_ms=1))
    problem(holding(world, token).get("/v1/jobs"), "unauthorized")
    assert world.get("/v1/tokens")["tokens"][0]["is_expired"]


@pytest.mark.parametrize(
    "body",
    [{"name": "x", "scope": "root"}, {"name": "", "scope": "read"}, {"name": "<b>", "scope": "read"}]
    + [{"name": "x", "scope": "read", "expires_days": days} for days in (0, -1, 1e9, 1e-9)],
)
def test_a_token_that_cannot_be(world: World, body: dict[str, Any]) -> None:
    problem(world.client.post("/v1/tokens", json=body), "validation")


def test_what_is_no_access_token_is_not_looked_up(world: World) -> None:
    world.engine.dispose()
    known = KnownTokens(world.engine, TOKEN)
    assert known.find(TOKEN) == OWN
    assert known.find("guess") is None
    assert world.engine.pool.checkedout() == 0
    assert known.find("sbt_guess") is None


def test_every_request_of_the_api_is_in_the_table_of_scopes() -> None:
    paths = json.loads(KEPT.read_text())["paths"]
    asked = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    listed = set(SCOPE_OF_ROUTE) | OPEN_ROUTES
    assert {entry.replace("HEAD ", "GET ") for entry in asked} == listed


def test_a_request_stands_in_the_table_of_scopes_once() -> None:
    with pytest.raises(ValueError, match="GET /x twice"):
        table_of({Scope.READ: "GET /x\n", Scope.ADMIN: "GET /x\nGET /y\n"})


def test_a_path_that_is_not_routed_yet_has_its_template() -> None:
    for line in SCOPE_OF_ROUTE:
        method, template = line.split(" ")
        path = re.sub(r"{\w+}", "name-1", template)
        assert template_of(method, path) == template
    assert template_of("POST", "/nothing") == "/nothing"


def test_only_looking_is_free_for_readers() -> None:
    for entry, scope in SCOPE_OF_ROUTE.items():
        assert scope is not Scope.READ or entry.startswith("GET "), entry
    assert scope_needed("POST", "/v1/not-in-the-table") is Scope.ADMIN
    assert scope_needed("GET", "/v1/not-in-the-table") is Scope.ADMIN
    assert scope_needed("POST", "/jobs/{job_id}/cancel") is Scope.ADMIN
    assert scope_needed("GET", "/jobs/{job_id}") is Scope.READ


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/", "/v1/jobs", "/metrics", "/docs", "/internal/v1/jobs/x/attempts/1", "/nothing"])
def test_a_foreign_host_is_refused_whatever_it_asks(one_world: World, method: str, path: str) -> None:
    response = one_world.client.request(method, path, headers={"Host": "evil.example"})
    assert response.status_code == 403
    if method != "HEAD":
        problem(response, "host_refused", "evil.example")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_change_from_a_foreign_page_is_refused_whatever_it_is(one_world: World, method: str) -> None:
    browser = one_world.client_with(**signed_in())
    for entry in SCOPE_OF_ROUTE:
        if entry.startswith(f"{method} "):
            path = entry.split(" ")[1].replace("{", "").replace("}", "")
            response = browser.request(method, path, json={}, headers={"Origin": "http://evil.example"})
            problem(response, "forbidden", "own pages")


def signed_in() -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={new_session(TOKEN, now_s=time.time())}"}
