"""A fresh catalog in each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.service.databases import fresh_catalog, on_both


@pytest.fixture(params=on_both())
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return a migrated catalog, once in SQLite and once in Postgres."""
    with fresh_catalog(request.param, tmp_path) as engine:
        yield engine
