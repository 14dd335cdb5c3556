"""A fresh catalog, and a real API on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from superbatch_server.service.settings import Settings
from tests.service.catalog.builders import new_catalog
from tests.service.running import running_api


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Return a migrated catalog in SQLite."""
    engine = new_catalog(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(engine: Engine, tmp_path: Path) -> Iterator[Settings]:
    """Serve the app on a free port; return the settings that name it."""
    with running_api(engine, tmp_path) as settings:
        yield settings
