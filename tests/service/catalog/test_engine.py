"""The engine's two kinds of transaction, its clock, and the migrations."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, func, inspect, select
from sqlalchemy.exc import IntegrityError

from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.engine import create_engine, read, write
from superbatch_server.service.catalog.migrations import HEAD, migrate, revision, upgrade
from superbatch_server.service.catalog.tables import datasets, metadata
from tests.service.catalog.builders import add_dataset


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 30_000), ("foreign_keys", 1)],
)
def test_sqlite_is_set_up_for_durable_concurrent_use(engine: Engine, pragma: str, value: object) -> None:
    with read(engine) as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value


def test_the_clock_is_the_databases_in_milliseconds(engine: Engine) -> None:
    with read(engine) as connection:
        assert abs(now_ms(connection) - time.time() * 1000) < 1000
    assert rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"


def test_an_exception_rolls_a_write_back(engine: Engine) -> None:
    def delete_and_fail() -> None:
        with write(engine) as connection:
            connection.execute(datasets.delete())
            connection.execute(datasets.insert().values(id="dataset_0", name=None))

    with pytest.raises(IntegrityError):
        delete_and_fail()
    with read(engine) as connection:
        assert connection.execute(select(func.count()).select_from(datasets)).scalar_one() == 1


def test_a_reader_does_not_wait_for_a_writer_and_sees_one_snapshot(engine: Engine) -> None:
    count = select(func.count()).select_from(datasets)
    with read(engine) as reader:
        assert reader.execute(count).scalar_one() == 1
        with write(engine) as writer:
            writer.execute(datasets.delete())
            with read(engine) as second_reader:
                assert second_reader.execute(count).scalar_one() == 1
        assert reader.execute(count).scalar_one() == 1
    with read(engine) as reader:
        assert reader.execute(count).scalar_one() == 0


def test_writers_take_turns_instead_of_failing(engine: Engine) -> None:
    def count_up() -> None:
        for _ in range(20):
            with write(engine) as connection:
                rows = connection.execute(select(datasets.c.rows)).scalar_one()
                connection.execute(datasets.update().values(rows=rows + 1))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read(engine) as connection:
        assert connection.execute(select(datasets.c.rows)).scalar_one() == 100 + 4 * 20


def test_the_revisions_make_the_schema_of_the_tables(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/upgraded.sqlite")
    with write(engine) as connection:
        upgrade(connection)
        assert revision(connection) == HEAD
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    migrate(engine)
    engine.dispose()


def described(connection: Connection) -> dict[str, object]:
    """Return columns and indexes of every table, by name."""
    found: dict[str, object] = {}
    for name in inspect(connection).get_table_names():
        columns = connection.exec_driver_sql(f"PRAGMA table_info({name})").all()
        indexes = connection.exec_driver_sql(f"PRAGMA index_list({name})").all()
        found[name] = (sorted(row[1:] for row in columns), sorted(row[1:] for row in indexes))
    return found


def test_a_new_catalog_is_that_which_the_revisions_make(engine: Engine, tmp_path: Path) -> None:
    upgraded = create_engine(f"sqlite:///{tmp_path}/upgraded.sqlite")
    with write(upgraded) as connection:
        upgrade(connection)
    with read(engine) as new, read(upgraded) as old:
        assert described(new) == described(old)
    upgraded.dispose()


def test_processes_may_migrate_at_the_same_time(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/catalog.sqlite")
    faults: list[BaseException] = []

    def migrate_noting_faults() -> None:
        try:
            migrate(engine)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=migrate_noting_faults) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with write(engine) as connection:
        add_dataset(connection)
    engine.dispose()
