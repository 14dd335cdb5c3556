"""One world for all tests of this folder; each test that writes gets a copy that shares shards and models by link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from . import world as worlds


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Shards and models, made once; nothing writes here."""
    return worlds.build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(built: worlds.World, tmp_path: Path) -> worlds.World:
    """The same shards and models beside an empty store."""
    return linked(built, tmp_path / "w")


@pytest.fixture
def more_worlds(built: worlds.World, tmp_path: Path) -> Callable[[str], worlds.World]:
    """Further copies, by name."""
    return lambda name: linked(built, tmp_path / name)


def linked(built: worlds.World, folder: Path) -> worlds.World:
    for path in sorted(built.folder.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(built.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return worlds.World(folder)
