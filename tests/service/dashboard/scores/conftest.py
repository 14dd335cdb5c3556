"""A service with a scored job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.api.world import World
from tests.service.dashboard.scores.scored_world import ScoredWorld
from tests.service.databases import fresh_catalog, on_both


@pytest.fixture(params=on_both(pytest.mark.long))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Return a service on SQLite; among the long tests, on Postgres too."""
    with fresh_catalog(request.param, tmp_path) as engine:
        world = World(tmp_path, engine=engine)
        yield world
        world.close()


@pytest.fixture
def scored(world: World) -> ScoredWorld:
    return ScoredWorld(world)
