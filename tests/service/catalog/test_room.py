"""A job whose driver found a disk full: QUEUED, told why, not counted as a crash, and tried again after a pause."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import OperationalError

from superbatch_server.schemas.attempts import Release
from superbatch_server.schemas.errors import InsufficientStorage
from superbatch_server.service.catalog import lease
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.events import events
from superbatch_server.service.catalog.tables import jobs
from superbatch_server.service.catalog.waiting import ROOM_PAUSE_MS
from superbatch_server.service.database_faults import fault_of
from superbatch_server.service.settings import Settings
from superbatch_server.service.supervisor import MIN_FREE_BYTES, Supervisor
from superbatch_server.storage.store import open_store
from superbatch_server.workers.driver import Exit
from superbatch_server.workers.driver import _failed as end_of_failure
from superbatch_server.workers.index_pass import ShardFailed
from tests.service.catalog.builders import claim_if, claim_it, event_kinds, job, submit
from tests.service.databases import fresh_catalog
from tests.small_disk import fill, small_disk


def released(engine: Engine) -> str:
    job_id, attempt = submit(engine), claim_it(engine)
    wait = Release(waits_for="room", seen_trained_seq=0, seen_checkpoint=None, reason="the store must have room")
    for _ in range(2):  # repeating is allowed
        with write(engine) as connection:
            lease.release(connection, attempt, wait)
    return job_id


def test_the_job_waits_with_a_reason_and_is_claimed_after_a_pause(engine: Engine) -> None:
    job_id = released(engine)
    row = job(engine, job_id)
    assert (row["state"], row["phase"], row["crashes"]) == ("QUEUED", "waiting_for_room", 0)
    with read(engine) as connection:
        said = connection.execute(events.select().where(events.c.kind == "released")).mappings().one()["message"]
    assert said == "waits for the room: the store must have room"
    assert claim_if(engine) is None
    with write(engine) as connection:
        passed = jobs.c.lease_until_ms - ROOM_PAUSE_MS
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(lease_until_ms=passed))
    claimed = claim_if(engine)
    assert claimed is not None
    assert claimed.token == 2
    assert event_kinds(engine, job_id)[-2:] == ["woken", "attempt_began"]


class Client:
    """Notes how a driver ended its attempt."""

    def __init__(self) -> None:
        self.releases: list[Release] = []

    def release(self, release: Release) -> None:
        self.releases.append(release)


@pytest.mark.parametrize(
    "error", [InsufficientStorage("the store must have room; got 'x'"), ShardFailed("insufficient_storage", "no room")]
)
def test_a_driver_that_finds_no_room_gives_the_job_back_instead_of_failing_it(error: InsufficientStorage) -> None:
    client = Client()
    assert end_of_failure(client, error) == Exit.DONE  # type: ignore[arg-type]
    assert [(release.waits_for, release.reason) for release in client.releases] == [("room", str(error))]


def test_a_supervisor_begins_nothing_where_an_attempt_could_not_write_its_log(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(engine)
    supervisor = Supervisor(engine=engine, settings=settings, store=open_store(settings.store_url))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": MIN_FREE_BYTES - 1})())
    supervisor.look()
    assert job(engine, job_id)["token"] == 0
    monkeypatch.undo()
    supervisor.look()
    assert job(engine, job_id)["token"] == 1
    supervisor.stop_drivers()


def test_a_catalog_whose_disk_is_full_says_so_keeps_what_it_acknowledged_and_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="4m") as disk, fresh_catalog("sqlite", disk) as engine:
        acknowledged = [submit(engine)]
        ballast = fill(disk)
        with pytest.raises(OperationalError) as refused:
            acknowledged.extend(submit(engine, name="n" * 100) for _ in range(500))
        assert isinstance(fault_of(refused.value), InsufficientStorage)
        ballast.unlink()
        acknowledged.append(submit(engine))
        with read(engine) as connection:
            assert set(connection.execute(select(jobs.c.id)).scalars()) == set(acknowledged)
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
