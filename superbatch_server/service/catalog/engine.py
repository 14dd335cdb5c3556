"""The catalog's engine and its two kinds of transaction, on SQLite and on Postgres.

SQLite: WAL, every commit on disk before it is acknowledged (synchronous=FULL), foreign keys on. A writing transaction
takes the write lock at its start (BEGIN IMMEDIATE), so that it never fails half-way; a reading one does not, sees one
snapshot, and never waits.

Postgres: a writing transaction is READ COMMITTED and locks the rows that it decides by (`FOR UPDATE`, the job's row
first); one that lost a race for a row is run again by `transact`. A reading one is REPEATABLE READ: a single snapshot.

Nobody waits for the other without end: after `patience_s` a statement fails, which clients are told as 503.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, event, make_url, text
from sqlalchemy import create_engine as create_sqlalchemy_engine
from sqlalchemy.exc import DBAPIError

from superbatch_server.service.catalog.wakeups import Wakeups

CHANNEL = "superbatch"
"""Where Postgres tells other processes which jobs a commit changed."""

PATIENCE_S = 30.0
TRIES = 5

_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
_WRITES, _CHANGED, _WAKEUPS = "superbatch_writes", "superbatch_changed", "superbatch_wakeups"
_CONNECT_S = 5
_LOST_RACES = frozenset({"40001", "40P01", "23505", "23503"})
"""Serialization failure, deadlock, and a row that another transaction added or removed a moment before."""

Result = TypeVar("Result")


class UnsuitableDatabase(Exception):
    """The catalog cannot be in this database; the message says why and what to do."""


def create_engine(database_url: str, *, patience_s: float = PATIENCE_S) -> Engine:
    """Return the engine of a catalog: `sqlite:///path` or `postgresql://user@host/name`."""
    url = make_url(database_url)
    engine = _sqlite(url, patience_s) if url.get_backend_name() == "sqlite" else _postgres(url, patience_s)
    engine.update_execution_options(**{_WAKEUPS: Wakeups()})
    return engine


def wakeups_of(engine: Engine) -> Wakeups:
    """Return where this process waits for commits of this catalog."""
    wakeups: Wakeups = engine.get_execution_options()[_WAKEUPS]
    return wakeups


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one reading transaction: a single snapshot."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one writing transaction; an exception rolls it back.

    After the commit everybody is rung who waits for a job that it `changed`.
    """
    names: set[str] = set()
    wakeups = wakeups_of(engine)
    with engine.connect() as connection:
        connection.execution_options(**{_WRITES: True, _CHANGED: names})
        with connection.begin():
            yield connection
            if names and engine.dialect.name == "postgresql":
                payloads = [f"{wakeups.origin} {name}" for name in sorted(names)]
                connection.execute(_NOTIFY, {"channel": CHANNEL, "payloads": payloads})
    for name in sorted(names):
        wakeups.ring(name)


def transact(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """Run `work` in one writing transaction and return its result; run it again, some times, when it lost a race.

    Only what `work` does with its connection is undone before another run.
    """
    for number in range(1, TRIES + 1):
        try:
            with write(engine) as connection:
                return work(connection)
        except DBAPIError as error:
            if number == TRIES or getattr(error.orig, "sqlstate", None) not in _LOST_RACES:
                raise
            time.sleep(random.uniform(0, 0.02 * number))
    raise AssertionError("the last try returns or raises")


def changed(connection: Connection, name: str) -> None:
    """Note that this transaction changes what is to be seen of a job (or `QUEUE`): its log, events or state."""
    names: set[str] = connection.get_execution_options().get(_CHANGED, set())
    names.add(name)


_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")


def _sqlite(url: URL, patience_s: float) -> Engine:
    engine = create_sqlalchemy_engine(url, pool_size=8, max_overflow=56, connect_args={"timeout": patience_s})

    def prepare(dbapi_connection: Any, _record: object) -> None:
        # The driver's own BEGIN comes late and is deferred; `_begin_sqlite` issues ours instead.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        for pragma in (f"busy_timeout = {round(patience_s * 1000)}", *_PRAGMAS):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres(url: URL, patience_s: float) -> Engine:
    """Return an engine of at most 24 connections, each tried before it is used again."""
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    patience_ms = round(patience_s * 1000)
    limits = {
        "lock_timeout": patience_ms,
        "statement_timeout": 2 * patience_ms,
        "idle_in_transaction_session_timeout": 2 * patience_ms,
    }
    own = " ".join(f"-c {name}={value}" for name, value in limits.items())
    connect_args = {
        "connect_timeout": _CONNECT_S,
        "tcp_user_timeout": patience_ms,
        "application_name": "superbatch",
        "client_encoding": "utf8",
        "options": f"{own} {url.query.get('options', '')}".strip(),
    }
    engine = create_sqlalchemy_engine(
        url.difference_update_query(["options"]),
        pool_size=8,
        max_overflow=16,
        pool_timeout=min(patience_s, 10.0),
        pool_pre_ping=True,
        connect_args=connect_args,
    )
    event.listen(engine, "connect", _require_utf8)
    return engine


def _require_utf8(dbapi_connection: Any, _record: object) -> None:
    info = dbapi_connection.info
    found = info.parameter_status("server_encoding")
    if found != "UTF8":
        name = info.dbname
        dbapi_connection.close()
        raise UnsuitableDatabase(
            f"the catalog's database must have the encoding UTF8; got {found} (database {name}, "
            "SUPERBATCH_DATABASE_URL). Make another: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."
        )
