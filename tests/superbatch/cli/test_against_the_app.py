"""The command line against the real API over a catalog without a supervisor: paths, fields and pages fit together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch.cli.client import HttpService
from superbatch.cli.connection import Connection
from superbatch.cli.errors import Exit
from superbatch.cli.main import run
from superbatch_server.service.app import create_app
from superbatch_server.service.catalog import datasets
from superbatch_server.service.catalog.engine import create_engine, write
from superbatch_server.service.catalog.tables import metadata
from superbatch_server.service.settings import read_settings
from superbatch_server.storage.store import open_store

TOKEN = "of-the-test"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> TestClient:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.tar").write_bytes(bytes(1024))
    settings = read_settings({}, data_dir=tmp_path / "data", roots={"here": str(tmp_path)})
    app = create_app(engine=engine, settings=settings, store=open_store(settings.store_url), token=TOKEN)
    return TestClient(app, base_url="http://127.0.0.1:8600")


def against(client: TestClient, *arguments: str) -> int:
    def forward(request: httpx.Request) -> httpx.Response:
        answer = client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(
            answer.status_code, content=answer.content, headers={"ETag": answer.headers.get("ETag", "")}
        )

    def connect(connection: Connection) -> HttpService:
        return HttpService(connection, transport=httpx.MockTransport(forward), sleep=lambda _: None)

    environment = {"SUPERBATCH_URL": "http://127.0.0.1:8600", "SUPERBATCH_TOKEN": TOKEN}
    return run(arguments, environment=environment, connect=connect)


def test_a_folder_becomes_a_data_set_that_is_listed(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert against(client, "datasets", "add", str(tmp_path / "pictures")) == Exit.OK
    dataset_id = capsys.readouterr().out.split()[0]
    assert against(client, "datasets", "list") == Exit.OK
    assert capsys.readouterr().out.splitlines()[1].split() == [dataset_id, "pictures", "VERIFYING", "-", "1"]


def test_a_model_folder_becomes_a_model(client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "learner"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    assert against(client, "models", "add", str(folder)) == Exit.OK
    assert against(client, "models", "list") == Exit.OK
    assert "config, tokenizer" in capsys.readouterr().out


def test_a_spec_that_is_refused_is_one_sentence_with_its_code(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against(client, "datasets", "add", str(tmp_path / "pictures"))
    capsys.readouterr()
    arguments = ("submit", "--dataset", "pictures", "--method", "uniform", "--num-batches", "3")
    assert against(client, *arguments, "-b", "8", "-N", "16") == Exit.REFUSED
    assert "N must not exceed b" in capsys.readouterr().err
    assert against(client, *arguments, "-b", "8", "-N", "8") == Exit.REFUSED
    assert "[dataset_not_ready, HTTP 422]" in capsys.readouterr().err


def test_an_unknown_job_is_named(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("watch", "events", "cancel", "retry"):
        assert against(client, command, "job_0000000000000000") == Exit.REFUSED
        assert "[not_found, HTTP 404]" in capsys.readouterr().err


def test_a_job_is_submitted_listed_watched_and_cancelled(
    client: TestClient, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against(client, "datasets", "add", str(tmp_path / "pictures"))
    _make_ready(engine)
    arguments = ("--dataset", "pictures", "--method", "uniform", "-b", "8", "-N", "8", "--num-batches", "3")
    capsys.readouterr()
    assert against(client, "submit", *arguments) == Exit.OK
    job_id = capsys.readouterr().out.strip()
    assert against(client, "cancel", job_id) == Exit.OK
    assert against(client, "watch", job_id) == Exit.ENDED_BADLY
    assert against(client, "jobs", "list") == Exit.OK
    out = capsys.readouterr().out
    assert "CANCELLED: 0 of 3 batches" in out
    assert "submitted" in out


def _make_ready(engine: Engine) -> None:
    """Do what the supervisor does: count the rows of the shards."""
    with write(engine) as connection:
        pending = datasets.pending_dataset(connection)
        assert pending is not None
        datasets.record_shard(connection, pending.id, 0, rows=100, fingerprint="0" * 64)
        datasets.finish_dataset(connection, pending.id, fingerprint="1" * 64, start_indexes=[0], rows=100)
