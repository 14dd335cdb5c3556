"""One small world for all end-to-end tests of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.sample_world import World, build


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Shards and models that no test changes (trainers add checkpoints under names of their own)."""
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def fresh_world(tmp_path: Path) -> Callable[[], World]:
    """A world that a test may damage."""
    return lambda: build(tmp_path / "world")
