"""The page of the service's health has the numbers of `GET /v1/storage`, and says what needs a look."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch_server.service.dashboard.health_page import size
from superbatch_server.service.routes import storage
from superbatch_server.service.watching.storage_report import GIB, level_of
from tests.service.dashboard.conftest import make_app, new_engine, sign_in
from tests.service.dashboard.seed import seed


def test_the_page_and_the_api_say_the_same(tmp_path: Path) -> None:
    engine = new_engine(tmp_path)
    seed(engine)
    app = make_app(engine, tmp_path)
    app.include_router(storage.router)
    client = sign_in(TestClient(app), now_s=time.time())
    job = "job_00000000000000aa"
    (tmp_path / "uploads" / job).mkdir(parents=True)
    (tmp_path / "uploads" / job / f"{'a' * 64}.5000.part").write_bytes(b"x" * 1200)
    answer = client.get("/v1/storage").json()
    html = client.get("/health").text
    assert [place["name"] for place in answer["places"]] == ["data", "store", "uploads", "scratch"]
    for place in answer["places"]:
        total = re.search(rf"data-storage=\"{place['name']}.total_bytes\" value='(\d+)'", html)
        assert total is not None
        assert int(total[1]) == place["total_bytes"] > 0
    assert answer["uploads"] == {
        "num_uploads": 1, "received_bytes": 1200, "announced_bytes": 5000, "quota_bytes": 64 * GIB,
    }  # fmt: skip
    assert answer["queue"]["queued"] == 1
    assert answer["queue"]["waiting"] == 1
    assert answer["queue"]["live_supervisors"] == 1
    assert answer["catalog"]["kind"] == "sqlite"
    assert answer["catalog"]["size_bytes"] > 50_000
    assert size(answer["uploads"]["announced_bytes"]) in html
    assert answer["versions"]["superbatch-server"] in html
    assert "bench-2</bdi>, pid 4242" in html
    assert "1 of 2" in html
    engine.dispose()


def test_a_remote_store_has_no_disk_here(engine: Engine, tmp_path: Path) -> None:
    app = make_app(engine, tmp_path)
    deployment = app.state.deployment
    remote = deployment.settings.model_copy(update={"store_url": "s3://bucket/prefix"})
    object.__setattr__(deployment, "settings", remote)
    app.include_router(storage.router)
    client = sign_in(TestClient(app), now_s=time.time())
    place = client.get("/v1/storage").json()["places"][1]
    assert place == {
        "name": "store", "location": "s3://bucket/prefix", "total_bytes": None, "free_bytes": None, "level": "unknown",
    }  # fmt: skip
    assert "not a folder here" in client.get("/health").text


@pytest.mark.parametrize(
    ("free", "total", "level"),
    [
        (500 * GIB, 1000 * GIB, "ok"),
        (11 * GIB, 1000 * GIB, "ok"),
        (9 * GIB, 1000 * GIB, "low"),
        (GIB // 2, 1000 * GIB, "full"),
        (2 * GIB, 10 * GIB, "ok"),
        (GIB // 2, 10 * GIB, "low"),
        (GIB // 10, 10 * GIB, "full"),
        (0, 10 * GIB, "full"),
    ],
)
def test_a_disk_is_low_by_share_or_by_bytes(free: int, total: int, level: str) -> None:
    assert level_of(free, total) == level


def test_sizes_are_short() -> None:
    assert [size(each) for each in (None, 0, 1023, 1536, 64 * GIB, 3 * 1024 * GIB)] == [
        "–", "0 B", "1023 B", "1.5 KiB", "64 GiB", "3.0 TiB",
    ]  # fmt: skip
