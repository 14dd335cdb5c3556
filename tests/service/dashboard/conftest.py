"""An app that holds nothing but the dashboard, over a made-up catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch_server.service.access.auth import COOKIE, new_session
from superbatch_server.service.catalog.engine import create_engine
from superbatch_server.service.catalog.tables import metadata
from superbatch_server.service.context import Deployment
from superbatch_server.service.dashboard import build_router
from superbatch_server.service.settings import read_settings
from superbatch_server.storage.store import open_store
from tests.service.dashboard.seed import Made, seed

TOKEN = "made-up"


def make_app(engine: Engine, data_dir: Path) -> FastAPI:
    settings = read_settings({}, data_dir=data_dir)
    app = FastAPI()
    app.state.deployment = Deployment(
        engine=engine, settings=settings, store=open_store(settings.store_url), roots={}, token=TOKEN
    )
    app.include_router(build_router())
    return app


def new_engine(folder: Path) -> Engine:
    engine = create_engine(f"sqlite:///{folder}/catalog.sqlite")
    metadata.create_all(engine)
    return engine


def sign_in(client: TestClient, *, now_s: float) -> TestClient:
    client.cookies.set(COOKIE, new_session(TOKEN, now_s=now_s))
    return client


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = new_engine(tmp_path_factory.mktemp("dashboard"))
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def made(engine: Engine) -> Made:
    return seed(engine)


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """Return the folder of a made-up catalog that nobody has open, to be copied."""
    folder = tmp_path_factory.mktemp("seeded")
    engine = new_engine(folder)
    made = seed(engine)
    engine.dispose()
    return folder, made


@pytest.fixture
def own_engine(seeded: tuple[Path, Made], tmp_path: Path) -> Iterator[Engine]:
    """Return a made-up catalog of this test alone, in `tmp_path`."""
    for file in seeded[0].iterdir():
        copy(file, tmp_path)
    engine = create_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield engine
    engine.dispose()


@pytest.fixture
def own(seeded: tuple[Path, Made]) -> Made:
    """Return the jobs of `own_engine`."""
    return seeded[1]
