"""A store belongs to one catalog: another one removes nothing there, and says why."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from superbatch_server.schemas.errors import WrongState
from superbatch_server.schemas.garbage import GarbageRunState
from superbatch_server.service.catalog import gc_runs
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.upkeep.garbage.collector import collect_pending
from superbatch_server.service.upkeep.garbage.ownership import MARK, mark_store, require_own_store
from superbatch_server.storage.store import open_store
from tests.service.catalog.builders import DATASET_ID
from tests.service.databases import fresh_catalog, on_both
from tests.service.garbage.litter import LATER_S, Litter


@pytest.mark.parametrize("database", on_both())
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_catalog_removes_nothing_from_the_store_of_another(tmp_path: Path, database: str, dry_run: bool) -> None:
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with fresh_catalog(database, tmp_path / "first") as ours, fresh_catalog("sqlite", tmp_path / "second") as theirs:
        first, second = Litter(ours, store, tmp_path / "first"), Litter(theirs, store, tmp_path / "second")
        assert mark_store(ours, store) is False
        first.submit(DATASET_ID)
        attempt = first.claim()
        assert attempt is not None
        assert first.publish(attempt)
        before = first.stored_keys()
        with write(theirs) as connection:
            run = gc_runs.begin_run(connection, dry_run=dry_run, min_age_s=0)
        with pytest.raises(WrongState, match="a store prefix of its own"):
            collect_pending(second.places, "worker", clock=lambda: LATER_S * 10)
        with read(theirs) as connection:
            ended = gc_runs.get_run(connection, run.id)
        assert ended.state is GarbageRunState.FAILED
        assert ended.report.files == 0
        assert MARK in str(ended.error)
        assert first.stored_keys() == before
        assert first.collect().files == 0
        store.remove([MARK])
        require_own_store(theirs, store)


def test_a_store_of_another_catalog_is_said_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(str(tmp_path / "store"))
    store.put_new(MARK, b'{"catalog": "catalog_of_somebody"}')
    with fresh_catalog("sqlite", tmp_path) as engine, caplog.at_level(logging.WARNING):
        assert mark_store(engine, store) is False
    assert "catalog_of_somebody" in caplog.text
