"""The databases that a test may have its catalog in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.service.catalog.builders import add_dataset, new_catalog
from tests.service.postgres import new_engine, shared_server, template, why_not

needs_postgres = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def on_both(*marks_of_postgres: pytest.MarkDecorator) -> list[object]:
    """Return the parameters of a fixture that has its catalog in SQLite and then in Postgres."""
    return ["sqlite", pytest.param("postgresql", marks=[needs_postgres, *marks_of_postgres])]


@contextlib.contextmanager
def fresh_catalog(database: str, folder: Path) -> Iterator[Engine]:
    """Yield the engine of a migrated catalog with one READY data set."""
    if database == "postgresql":
        with shared_server().database(template=template(add_dataset)) as url, new_engine(url) as engine:
            yield engine
    else:
        engine = new_catalog(folder)
        yield engine
        engine.dispose()
