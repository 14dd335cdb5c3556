"""A new service for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.api.world import World
from tests.service.databases import fresh_catalog, on_both


@pytest.fixture(params=on_both())
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with fresh_catalog(request.param, tmp_path) as engine:
        world = World(tmp_path, engine=engine)
        yield world
        world.close()


@pytest.fixture
def one_world(tmp_path: Path) -> Iterator[World]:
    """Return a service over SQLite, for what has nothing to do with the database."""
    world = World(tmp_path)
    yield world
    world.close()
