"""Who may ask: token, cookie, host, origin."""

from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from superbatch_server.service.access.auth import COOKIE, is_session, new_login_code, new_session
from superbatch_server.service.access.login_codes import CODE_S, redeem_login_code
from superbatch_server.service.deployment import data_dir_lock
from tests.service.api.world import TOKEN, World, answered, problem


@pytest.mark.parametrize(
    "path", ["/v1/roots", "/v1/datasets", "/v1/models", "/v1/jobs", "/v1/jobs/x/manifest", "/v1/jobs/x/lists/y"]
)
def test_every_resource_needs_a_credential(world: World, path: str) -> None:
    response = world.client_with().get(path)
    problem(response, "unauthorized", "Authorization: Bearer")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ÿ"])
def test_a_wrong_credential_is_refused(world: World, header: str) -> None:
    response = world.client_with().get("/v1/roots", headers={b"Authorization": header.encode("latin-1")})
    body = problem(response, "unauthorized")
    assert TOKEN not in str(body)


def test_the_documentation_is_open(world: World) -> None:
    assert answered(world.client_with().get("/openapi.json"), 200)["openapi"]
    assert world.client_with().get("/docs").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost", "LOCALHOST:1", "[::1]:8600", "10.0.0.7:8600"])
def test_our_own_names_and_addresses_are_answered(world: World, host: str) -> None:
    answered(world.client.get("/v1/roots", headers={"Host": host}), 200)


REBOUND = ["evil.example", "evil.example:8600", "127.0.0.1.evil.example", "localhost.", "", "[x", "a b"]
NOT_A_HOST = ["evil.com@localhost", "localhost/evil", "localhost?x", "localhost:", "localhost:8600:1", "[localhost]"]


@pytest.mark.parametrize("host", [*REBOUND, *NOT_A_HOST])
def test_a_rebound_name_is_refused(world: World, host: str) -> None:
    problem(world.client.get("/v1/roots", headers={"Host": host}), "host_refused")


def test_a_name_that_the_deployment_sets_is_answered(tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    world = World(tmp_path / "named", host="superbatch.internal", cors_origins=("https://lab.example",))
    for host in ("superbatch.internal:8600", "lab.example"):
        answered(world.client.get("/v1/roots", headers={"Host": host}), 200)
    world.close()


def test_a_login_code_becomes_a_cookie_once(world: World) -> None:
    code = new_login_code(world.settings.data_dir)
    browser = world.client_with()
    response = browser.get(f"/login?code={code}")
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    cookie = response.headers["set-cookie"].lower()
    assert cookie.startswith(f"{COOKIE}=")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    answered(browser.get("/v1/roots"), 200)
    problem(world.client_with().get(f"/login?code={code}"), "unauthorized", "works once")


def test_a_person_with_a_used_code_reads_what_to_do(world: World) -> None:
    code = new_login_code(world.settings.data_dir)
    browser = world.client_with(Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert browser.get(f"/login?code={code}").status_code == 303
    again = world.client_with(Accept="text/html").get(f"/login?code={code}")
    assert again.status_code == 401
    assert again.headers["content-type"].startswith("text/html")
    assert "This address was used" in again.text
    assert "superbatch dashboard" in again.text
    assert code not in again.text


def test_codes_that_nobody_used_are_removed(world: World) -> None:
    new_login_code(world.settings.data_dir)
    (file,) = (world.settings.data_dir / "login-codes").iterdir()
    old = file.stat().st_mtime - CODE_S - 1
    os.utime(file, (old, old))
    fresh = [new_login_code(world.settings.data_dir) for _ in range(2)]
    assert not file.exists()
    assert all(redeem_login_code(world.settings.data_dir, code) for code in fresh)


def test_a_path_with_a_nul_is_not_found(world: World) -> None:
    problem(world.client.get("/v1/jobs/%00"), "not_found", "NUL")


@pytest.mark.parametrize("is_long", [False, True])
def test_a_name_that_stands_twice_is_refused(world: World, is_long: bool) -> None:
    body = '{"name": "x", "scope": "read", "scope": "admin"}' + is_long * " " * 70_000
    headers = {"Content-Type": "application/json"}
    problem(world.client.post("/v1/tokens", content=body, headers=headers), "validation", "'scope' twice")
    inner = '{"name": "m", "family": "tiny", "files": [{"role": "config", "role": "weights"}]}'
    problem(world.client.post("/v1/jobs", content=inner, headers=headers), "validation", "'role' twice")
    assert world.get("/v1/tokens")["tokens"] == []


def test_a_data_folder_that_was_open_is_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, before, after in (("open", 0o755, 0o700), ("private", 0o700, 0o700), ("shared", 0o1777, 0o1777)):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(before)
        with data_dir_lock(folder):
            assert stat.S_IMODE(folder.stat().st_mode) == after
    assert capsys.readouterr().err.count("open to its owner only") == 1


def test_an_unknown_code_is_refused(world: World) -> None:
    problem(world.client_with().get("/login?code=../token"), "unauthorized", "works once")
    problem(world.client_with().get("/login"), "validation", "query code must be given")


def test_only_the_owner_can_read_a_code_and_no_file_holds_it(world: World) -> None:
    code = new_login_code(world.settings.data_dir)
    (file,) = (world.settings.data_dir / "login-codes").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert code not in file.name + file.read_text()


def test_an_old_code_is_refused(world: World) -> None:
    code = new_login_code(world.settings.data_dir)
    (file,) = (world.settings.data_dir / "login-codes").iterdir()
    old = file.stat().st_mtime - CODE_S - 1
    os.utime(file, (old, old))
    problem(world.client_with().get(f"/login?code={code}"), "unauthorized")


def test_of_many_that_come_with_one_code_one_is_let_in(world: World) -> None:
    code = new_login_code(world.settings.data_dir)
    with ThreadPoolExecutor(8) as pool:
        let_in = list(pool.map(lambda _: redeem_login_code(world.settings.data_dir, code), range(16)))
    assert sum(let_in) == 1


def test_a_session_ends_and_cannot_be_made_up() -> None:
    session = new_session(TOKEN, now_s=1000)
    assert is_session(TOKEN, session, now_s=1001)
    assert not is_session(TOKEN, session, now_s=1000 + 8 * 24 * 3600)
    assert not is_session("another token", session, now_s=1001)
    later = str(int(session.split(".")[0]) + 1)
    for forged in ("", ".", "x.y", f"{later}.{session.split('.')[1]}", session[:-1]):
        assert not is_session(TOKEN, forged, now_s=1001)


def signed_in(world: World) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={new_session(TOKEN, now_s=time.time())}"}


def test_a_change_by_cookie_must_come_from_our_own_pages(world: World) -> None:
    browser = world.client_with(**signed_in(world))
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"}):
        problem(browser.post("/v1/jobs/x:cancel", headers=origin), "forbidden", "own pages")
    problem(browser.post("/v1/jobs/x:cancel", headers={"Origin": "http://127.0.0.1:8600"}), "not_found")


def test_a_wrong_token_is_not_helped_by_a_cookie(world: World) -> None:
    browser = world.client_with(**signed_in(world))
    problem(browser.get("/v1/roots", headers={"Authorization": "Bearer x"}), "unauthorized")
