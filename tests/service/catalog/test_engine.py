"""The engine's two kinds of transaction, its clock, and the migrations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, func, inspect, select
from sqlalchemy.exc import IntegrityError, InternalError

from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.migrations import HEAD, migrate, revision, upgrade
from superbatch_server.service.catalog.tables import datasets, metadata
from tests.service.catalog.builders import add_dataset
from tests.service.databases import fresh_catalog, needs_postgres, on_both
from tests.service.postgres import new_engine, shared_server


@pytest.fixture(params=on_both())
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine of a database without a table."""
    with ExitStack() as closing:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path}/empty.sqlite"
        else:
            url = closing.enter_context(shared_server().database())
        yield closing.enter_context(new_engine(url))


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 30_000), ("foreign_keys", 1)],
)
def test_sqlite_is_set_up_for_durable_concurrent_use(tmp_path: Path, pragma: str, value: object) -> None:
    with new_engine(f"sqlite:///{tmp_path}/catalog.sqlite") as engine, read(engine) as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value


@needs_postgres
def test_nobody_waits_for_postgres_without_end() -> None:
    with shared_server().database() as url, new_engine(f"{url}&options=-c%20work_mem%3D5MB") as engine:
        with read(engine) as connection:
            shown = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in LIMITS}
            with pytest.raises(InternalError, match="read-only"):
                connection.exec_driver_sql("CREATE TABLE t (x int)")
        with write(engine) as connection:
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
    assert shown == LIMITS


LIMITS = {
    "lock_timeout": "30s",
    "statement_timeout": "1min",
    "idle_in_transaction_session_timeout": "1min",
    "transaction_isolation": "repeatable read",
    "work_mem": "5MB",  # what an operator's URL asks for
}


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
                rows = connection.execute(select(datasets.c.rows).with_for_update()).scalar_one()
                connection.execute(datasets.update().values(rows=rows + 1))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read(engine) as connection:
        assert connection.execute(select(datasets.c.rows)).scalar_one() == 100 + 4 * 20


def test_the_revisions_make_the_schema_of_the_tables(empty: Engine) -> None:
    with write(empty) as connection:
        upgrade(connection)
        assert revision(connection) == HEAD
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    migrate(empty)


def described(connection: Connection) -> dict[str, object]:
    """Return columns, keys and indexes of every table, by name."""
    seen = inspect(connection)
    found: dict[str, object] = {}
    for name in seen.get_table_names():
        columns = [{**column, "type": str(column["type"])} for column in seen.get_columns(name)]
        keys = (seen.get_pk_constraint(name), seen.get_foreign_keys(name), seen.get_unique_constraints(name))
        parts = (columns, seen.get_indexes(name), *keys)
        found[name] = [sorted(map(str, part)) if isinstance(part, list) else str(part) for part in parts]
    return found


def test_a_new_catalog_is_that_which_the_revisions_make(empty: Engine, tmp_path: Path) -> None:
    with write(empty) as connection:
        upgrade(connection)
    with fresh_catalog(empty.dialect.name, tmp_path) as engine, read(engine) as new, read(empty) as old:
        assert described(new) == described(old)


def test_processes_may_migrate_at_the_same_time(empty: Engine) -> None:
    faults: list[BaseException] = []

    def migrate_noting_faults() -> None:
        try:
            migrate(empty)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=migrate_noting_faults) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with write(empty) as connection:
        add_dataset(connection)
