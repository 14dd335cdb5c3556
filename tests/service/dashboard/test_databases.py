"""Every page reads from Postgres what it reads from SQLite."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.routes import storage
from tests.service.dashboard.conftest import make_app, sign_in
from tests.service.dashboard.files import put_indexes
from tests.service.dashboard.seed import seed
from tests.service.dashboard.test_pages import outline, pages
from tests.service.databases import fresh_catalog, on_both


@pytest.mark.parametrize("kind", on_both(pytest.mark.long))
def test_every_page_is_drawn_from_either_database(kind: str, tmp_path: Path) -> None:
    with fresh_catalog(kind, tmp_path) as engine:
        made = seed(engine)
        app = make_app(engine, tmp_path)
        app.include_router(storage.router)
        with write(engine) as connection:
            put_indexes(connection, app.state.deployment.store)
        client = sign_in(TestClient(app), now_s=time.time())
        for path in [*pages(made), "/?state=FAILED", f"/jobs/{made.jobs['running']}/cancel"]:
            answer = client.get(path)
            assert answer.status_code == 200, path
            outline(answer.text)
        assert "Batches keep 20.0% of their candidates" in client.get(f"/jobs/{made.jobs['running']}").text
        assert client.get("/v1/storage").json()["catalog"]["size_bytes"] > 50_000
