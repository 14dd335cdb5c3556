"""Hears on Postgres which jobs other processes changed, and rings this process's wake-ups for them.

A thread holds one connection that LISTENs; when that is lost it connects again, later and later. Nothing depends on it:
whoever waits looks for itself every second.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Engine

from superbatch_server.service.catalog.engine import CHANNEL, wakeups_of

log = logging.getLogger("superbatch.listener")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_CHECK_S = 30.0
"""Seconds of silence after which the connection is tried."""


@contextmanager
def listening(engine: Engine) -> Iterator[None]:
    """Ring for the commits of other processes too, where the database can tell of them; SQLite cannot."""
    if engine.dialect.name != "postgresql":
        yield
        return
    ours, threads = socket.socketpair()
    with ours, threads:
        thread = threading.Thread(target=_listen_until, args=(engine, threads), name="listener", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ours.send(b".")
            thread.join()


def _listen_until(engine: Engine, stop: socket.socket) -> None:
    wait_s = _FIRST_WAIT_S
    while not _readable([stop], 0):
        try:
            for _ in _heard(engine, stop):
                wait_s = _FIRST_WAIT_S
            return
        except Exception as error:
            log.warning("the catalog's notifications are lost and asked for again: %s", error)
            _readable([stop], wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _heard(engine: Engine, stop: socket.socket) -> Iterator[None]:
    """Ring for every notification until told to stop; yield whenever the connection has shown that it works."""
    wakeups = wakeups_of(engine)
    with closing(_connection(engine)) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        yield
        while True:
            ready = _readable([stop, connection], _CHECK_S)
            if stop in ready:
                return
            if not ready:
                connection.execute("SELECT 1")
            for notification in connection.notifies(timeout=0):
                origin, _, name = notification.payload.partition(" ")
                if origin != wakeups.origin:
                    wakeups.ring(name)
            yield


def _connection(engine: Engine) -> Any:
    """Return a connection of psycopg's own that the pool has no part in any more."""
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    connection.autocommit = True
    return connection


def _readable(sources: list[Any], timeout_s: float) -> list[Any]:
    return select.select(sources, [], [], timeout_s)[0]
