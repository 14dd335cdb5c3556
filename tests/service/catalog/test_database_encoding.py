"""A Postgres database of another encoding than UTF-8 is refused in a sentence, before anything is written to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from superbatch_server.service.catalog.engine import UnsuitableDatabase
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.deployment import make_token
from tests.service.databases import needs_postgres
from tests.service.postgres import new_engine, shared_server

pytestmark = needs_postgres


@pytest.fixture
def ascii_url() -> Iterator[str]:
    """A database in which a text is any bytes."""
    server = shared_server()
    server.sql("CREATE DATABASE of_bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    yield server.url("of_bytes")
    server.sql("DROP DATABASE of_bytes WITH (FORCE)")


def test_the_encoding_is_named(ascii_url: str) -> None:
    with new_engine(ascii_url) as engine, pytest.raises(UnsuitableDatabase, match=r"got SQL_ASCII \(database of_bytes"):
        migrate(engine)


@pytest.mark.parametrize("module", ["supervisor", "api_process"])
def test_the_processes_end_with_the_sentence(ascii_url: str, tmp_path: Path, module: str) -> None:
    make_token(tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SUPERBATCH_")}
    environment |= {"SUPERBATCH_DATA_DIR": str(tmp_path), "SUPERBATCH_DATABASE_URL": ascii_url}
    arguments = [str(os.getpid()), *(["0"] if module == "api_process" else [])]
    ended = subprocess.run(
        [sys.executable, "-m", f"superbatch_server.service.{module}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "must have the encoding UTF8; got SQL_ASCII" in ended.stderr
    assert "Traceback" not in ended.stderr
