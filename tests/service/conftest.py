"""A fresh catalog, and a real API on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from superbatch_server.service.settings import Settings
from tests.service.databases import fresh_catalog, on_both
from tests.service.postgres import why_not
from tests.service.running import running_api


@pytest.fixture(params=on_both(pytest.mark.long))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return a migrated catalog in SQLite; among the long tests, in Postgres too."""
    with fresh_catalog(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def settings(engine: Engine, tmp_path: Path) -> Iterator[Settings]:
    """Serve the app on a free port; return the settings that name it."""
    with running_api(engine, tmp_path) as settings:
        yield settings


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests on Postgres were left out, and why."""
    reason = why_not()
    if reason is None:
        return
    skipped = [report for report in terminalreporter.getreports("skipped") if reason in str(report.longrepr)]
    terminalreporter.write_line(f"{len(skipped)} tests on Postgres were skipped: {reason}")
