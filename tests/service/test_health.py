"""Health checks of containers, and `serve` in parts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.supervisors import Identity, beat
from superbatch_server.service.catalog.tables import supervisors
from superbatch_server.service.deployment import CannotServe, data_dir_lock, make_token, read_token
from superbatch_server.service.serve import command
from superbatch_server.service.settings import Settings
from superbatch_server.service.watching import health
from tests.service.running import FAKE_DRIVER, wait_until


def settings_of(engine: Engine, folder: Path) -> Settings:
    return Settings(data_dir=folder, database_url=engine.url.render_as_string(hide_password=False))


def test_the_api_is_well_while_it_answers(settings: Settings) -> None:
    health.require_answer(f"{settings.service_url}/healthz")
    with pytest.raises(health.Unwell, match="got status 404"):
        health.require_answer(f"{settings.service_url}/v1/nothing")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(health.Unwell, match="refused"):
        health.require_answer(f"http://127.0.0.1:{port}/healthz")


def test_a_supervisor_is_well_while_it_is_seen_on_its_own_host(engine: Engine, tmp_path: Path) -> None:
    settings = settings_of(engine, tmp_path)
    with pytest.raises(health.Unwell, match="none was ever seen"):
        health.require_supervisor(settings, host="here")
    with write(engine) as connection:
        for host in ("here", "there"):
            beat(connection, Identity(host, host, 1, "ray_jobs", 2), num_running=0)
    health.require_supervisor(settings, host="here")
    with write(engine) as connection:
        gone = supervisors.c.id == "here"
        connection.execute(supervisors.update().where(gone).values(seen_ms=supervisors.c.seen_ms - 40_000))
    with pytest.raises(health.Unwell, match="the last one was seen 40 s ago"):
        health.require_supervisor(settings, host="here")


def test_a_catalog_that_is_away_is_unwell(tmp_path: Path) -> None:
    with pytest.raises(health.Unwell, match="the catalog must answer"):
        health.require_supervisor(Settings(data_dir=tmp_path / "no" / "such"), host="here")


def test_a_check_ends_with_a_code_and_one_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERBATCH_PORT", str(settings.port))
    assert health.main(["api"]) == 0
    assert health.main(["url", f"{settings.service_url}/healthz"]) == 0
    assert health.main(["url", f"{settings.service_url}/v1/jobs"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("SUPERBATCH_PROT", "1")
    assert health.main(["api"]) == 1
    assert "SUPERBATCH_PROT" in capsys.readouterr().err


@contextlib.contextmanager
def part(name: str, data_dir: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one part of the service until the block is left."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SUPERBATCH_")} | settings
    environment["SUPERBATCH_DRIVER_COMMAND"] = json.dumps([sys.executable, FAKE_DRIVER, "work"])
    process = subprocess.Popen(
        [sys.executable, "-m", "superbatch_server.service.serve", "--only", name, "--data-dir", str(data_dir)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_api_and_supervisor_run_apart_on_one_token_and_one_catalog(tmp_path: Path) -> None:
    secret = tmp_path / "mounted"
    secret.write_text("the-mounted-token\n")
    data_dir = tmp_path / "data"
    shared = {"SUPERBATCH_TOKEN_FILE": str(secret), "SUPERBATCH_PORT": "0", "SUPERBATCH_ALLOWED_HOSTS": '["proxy"]'}
    with part("api", data_dir, **shared):
        wait_until((data_dir / "service.json").exists, "the API is announced")
        url = json.loads((data_dir / "service.json").read_text())["url"]
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer the-mounted-token"}) as http:
            assert http.get("/v1/supervisors").json()["supervisors"] == []
            assert http.get("/v1/jobs", headers={"Host": "proxy"}).status_code == 200
            assert http.get("/v1/jobs", headers={"Host": "elsewhere"}).status_code == 403
            assert not (data_dir / "token").exists()
            with part("supervisor", data_dir, SUPERBATCH_API_URL=url):
                wait_until(lambda: http.get("/v1/supervisors").json()["supervisors"], "the supervisor is seen")
            assert http.get("/v1/supervisors").json()["supervisors"] == []


def test_the_parts_share_a_directory_and_a_whole_service_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with data_dir_lock(tmp_path, shared=True), data_dir_lock(tmp_path, shared=True):
        assert command(["--data-dir", str(tmp_path), "--port", "0"]) == 2
    with data_dir_lock(tmp_path):
        assert command(["--only", "supervisor", "--data-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("is served already") == 2


def test_a_mounted_token_is_read_and_never_made(tmp_path: Path) -> None:
    mounted = tmp_path / "elsewhere" / "token"
    with pytest.raises(CannotServe, match="Mount the secret"):
        make_token(tmp_path, mounted)
    mounted.parent.mkdir()
    mounted.write_text("two words")
    make_token(tmp_path, mounted)
    with pytest.raises(ValueError, match="must hold one word"):
        read_token(tmp_path, mounted)
    mounted.write_text("word\n")
    assert read_token(tmp_path, mounted) == "word"


def test_the_password_of_the_catalog_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = tmp_path / "password"
    password.write_text("p@ss:/word?\n")
    settings = Settings(
        data_dir=tmp_path, database_url="postgresql+psycopg://me@db:5432/x", database_password_file=password
    )
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://me:p%40ss%3A%2Fword%3F@db:5432/x"
    assert "p%40ss" not in repr(settings)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings, "said twice, it is the same"
    password.unlink()
    with pytest.raises(ValueError, match="SUPERBATCH_DATABASE_PASSWORD_FILE"):
        Settings()
