"""The catalog's engine and its two kinds of transaction.

SQLite: WAL, every commit on disk before it is acknowledged (synchronous=FULL), 30 s of patience with other writers,
foreign keys on. A writing transaction takes the write lock at its start (BEGIN IMMEDIATE), so that it never fails
half-way; a reading one does not, sees one snapshot, and never waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy import create_engine as create_sqlalchemy_engine

_PRAGMAS = (
    "PRAGMA busy_timeout = 30000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
_WRITES = "superbatch_writes"


def create_engine(database_url: str) -> Engine:
    """Return the engine of a catalog: `sqlite:///path` or a Postgres URL."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        engine = create_sqlalchemy_engine(url, pool_size=8, max_overflow=56, connect_args={"timeout": 30})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_sqlalchemy_engine(url, pool_size=8, max_overflow=56, pool_pre_ping=True)


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one reading transaction: a single snapshot."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one writing transaction; an exception rolls it back."""
    with engine.connect() as connection:
        connection.execution_options(**{_WRITES: True})
        with connection.begin():
            yield connection


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes late and is deferred; `_begin_sqlite` issues ours instead.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
