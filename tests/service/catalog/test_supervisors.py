"""Heartbeats of supervisors: who is there, who went silent, who said goodbye."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import Engine, select

from superbatch_server.schemas.supervisors import Supervisor
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.supervisors import KEPT_MS, SILENT_MS, Identity, beat, forget, list_supervisors
from superbatch_server.service.catalog.tables import supervisors
from superbatch_server.service.upkeep.presence import present


def identity(name: str, **changes: Any) -> Identity:
    fields: dict[str, Any] = {"host": "lab-1", "pid": 77, "runner": "local", "max_running": 2}
    return Identity(id=f"supervisor_{name}", **(fields | changes))


def beaten(engine: Engine, who: Identity, *, num_running: int = 0, ago_ms: int = 0) -> None:
    """Note a heartbeat of some time ago."""
    with write(engine) as connection:
        beat(connection, who, num_running=num_running)
        own = supervisors.update().where(supervisors.c.id == who.id)
        connection.execute(own.values(seen_ms=now_ms(connection) - ago_ms))


def listed(engine: Engine) -> list[Supervisor]:
    with read(engine) as connection:
        return list_supervisors(connection)


def test_a_heartbeat_tells_what_a_supervisor_runs(engine: Engine) -> None:
    beaten(engine, identity("a"))
    beaten(engine, identity("a"), num_running=1)
    (found,) = listed(engine)
    assert (found.id, found.host, found.pid, found.runner) == ("supervisor_a", "lab-1", 77, "local")
    assert (found.max_running, found.num_running, found.is_live) == (2, 1, True)
    assert found.started_at <= found.seen_at
    assert 0 <= found.age_s < 20


@pytest.mark.parametrize(("ago_ms", "is_live"), [(SILENT_MS - 10_000, True), (SILENT_MS, False)])
def test_one_that_is_silent_is_taken_for_gone(engine: Engine, ago_ms: int, is_live: bool) -> None:
    beaten(engine, identity("a"), ago_ms=ago_ms)
    (found,) = listed(engine)
    assert found.is_live is is_live
    assert found.age_s >= ago_ms / 1000


def test_the_last_seen_comes_first_and_who_vanished_a_day_ago_is_forgotten(engine: Engine) -> None:
    beaten(engine, identity("silent"), ago_ms=KEPT_MS - 60_000)
    beaten(engine, identity("old"), ago_ms=KEPT_MS + 1000)
    assert len(listed(engine)) == 2
    beaten(engine, identity("new"))
    assert [each.id for each in listed(engine)] == ["supervisor_new", "supervisor_silent"]


def test_who_stops_is_removed(engine: Engine) -> None:
    beaten(engine, identity("a"))
    with write(engine) as connection:
        forget(connection, "supervisor_a")
    assert listed(engine) == []


def test_presence_beats_at_once_and_says_goodbye(engine: Engine) -> None:
    with present(engine, identity("a"), num_running=lambda: 2):
        deadline = time.monotonic() + 10
        while not listed(engine) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [each.num_running for each in listed(engine)] == [2]
    assert listed(engine) == []


def test_a_heartbeat_that_cannot_be_noted_stops_nothing(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with write(engine) as connection:
        supervisors.drop(connection)
    with present(engine, identity("a"), num_running=lambda: 0):
        deadline = time.monotonic() + 10
        while "could not be noted" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "the heartbeat of supervisor_a could not be noted" in caplog.text
    with read(engine) as connection:
        assert connection.execute(select(1)).scalar_one() == 1
