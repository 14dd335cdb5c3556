"""docs/security.md: its limits, lifetimes and policies are those of the program."""

from __future__ import annotations

from superbatch.tiny.picture import MAX_PIXELS
from superbatch_server.schemas.tokens import Scope
from superbatch_server.service.access.body_limit import (
    MAX_BODY_BYTES,
    MAX_BODY_BYTES_OF_PATH,
    SILENCE_S,
    SMALL_BODY_BYTES,
)
from superbatch_server.service.access.credentials import REMEMBERED_S, SESSION_S
from superbatch_server.service.access.login_codes import CODE_S
from superbatch_server.service.catalog.access_tokens import SECRET_PREFIX
from superbatch_server.service.dashboard.rendering import CONTENT_POLICY
from superbatch_server.service.http_protocol import HEAD_S, MAX_HEAD_BYTES
from superbatch_server.service.settings import Settings
from tests.docs.shell_page import DOCS
from tests.service.api.world import TOKEN, World, problem

PAGE = " ".join((DOCS / "security.md").read_text().split())


def test_its_limits_are_those_of_the_program() -> None:
    assert (MAX_HEAD_BYTES, HEAD_S) == (32 << 10, 15)
    assert "| head of a request | 32 KiB, within 15 s |" in PAGE
    assert (MAX_BODY_BYTES, MAX_BODY_BYTES_OF_PATH["/v1/datasets"], SILENCE_S) == (8 << 20, 64 << 20, 30)
    assert SMALL_BODY_BYTES == 64 << 10
    assert "8 MiB (data sets 64 MiB), no pause above 30 s; above 64 KiB only with a credential" in PAGE
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert f"{default['requests_per_s']:,.0f} a second, {default['max_requests']:,} under way" in PAGE
    bounds = (default["max_waiting"], default["max_streams"], default["max_connections"])
    assert "{:,}, {:,}, {:,};".format(*bounds) in PAGE
    assert f"{default['upload_quota_bytes'] >> 30} GiB together, parts of 8 MiB" in PAGE
    assert f"{MAX_PIXELS / 1e6:.1f} million pixels" in PAGE


def test_its_lifetimes_are_those_of_the_program() -> None:
    assert (SESSION_S, CODE_S) == (7 * 86_400, 86_400)
    assert "after 7 days, or with the deployment's token" in PAGE
    assert REMEMBERED_S < 1
    assert f"access token `{SECRET_PREFIX}...`" in PAGE
    assert ", ".join(f"`{scope}`" for scope in Scope) in PAGE


def test_its_content_policy_is_that_of_the_pages() -> None:
    assert CONTENT_POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; ")
    assert CONTENT_POLICY.endswith("form-action 'self'; frame-ancestors 'none'")
    assert "unsafe" not in CONTENT_POLICY


def test_what_is_open_without_a_credential_is_what_it_lists(one_world: World) -> None:
    nobody = one_world.client_with()
    for path in ("/healthz", "/v1/health", "/docs", "/openapi.json", "/static/dashboard.css"):
        assert nobody.get(path).status_code == 200, path
        assert f"`{path}`" in PAGE or path.startswith("/static/")
        assert str(one_world.settings.data_dir) not in nobody.get(path).text
    for path in ("/", "/health", "/metrics", "/v1/roots", "/v1/storage", "/v1/jobs"):
        assert nobody.get(path).status_code == 401, path


def test_hosts_and_origins_are_guarded_as_it_says(one_world: World) -> None:
    client = one_world.client_with(Authorization=f"Bearer {TOKEN}")
    problem(client.get("/v1/roots", headers={"Host": "evil.example"}), "host_refused")
    answer = client.get("/v1/roots", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
