"""A new catalog for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.service.catalog.builders import new_catalog


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_catalog(tmp_path)
    yield engine
    engine.dispose()
