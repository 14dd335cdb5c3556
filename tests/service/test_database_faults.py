"""What clients are told when the database is locked, full or away, and what is done again instead of failing."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from superbatch_server.schemas.errors import InUse
from superbatch_server.service.catalog import engine as engine_module
from superbatch_server.service.catalog.attempts import commit_cached
from superbatch_server.service.catalog.datasets import delete_dataset
from superbatch_server.service.catalog.engine import create_engine, read, transact, write
from superbatch_server.service.catalog.idempotency import Answer, KeyedRequest, answer_once
from superbatch_server.service.catalog.queue import submit_job
from superbatch_server.service.catalog.tables import cache, datasets, idempotency, jobs
from superbatch_server.service.database_faults import fault_of
from tests.service.catalog.builders import (
    DATASET_ID,
    add_dataset,
    cache_entry,
    claim_it,
    job,
    new_catalog,
    spec,
    submit,
)
from tests.service.databases import needs_postgres, on_both
from tests.service.postgres import new_engine, shared_server, template
from tests.service.running import TOKEN, running_api

PATIENCE_S = 0.3


@pytest.fixture(params=on_both())
def impatient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine that waits for others but shortly."""
    with contextlib.ExitStack() as closing:
        if request.param == "postgresql":
            url = closing.enter_context(shared_server().database(template=template(add_dataset)))
        else:
            new_catalog(tmp_path).dispose()
            url = f"sqlite:///{tmp_path}/catalog.sqlite"
        engine = create_engine(url, patience_s=PATIENCE_S)
        closing.callback(engine.dispose)
        yield engine


@pytest.fixture
def postgres() -> Iterator[Engine]:
    """A catalog in Postgres."""
    with shared_server().database(template=template(add_dataset)) as url, new_engine(url) as engine:
        yield engine


def test_a_lock_held_beyond_patience_is_told_as_503_and_passes(impatient: Engine, tmp_path: Path) -> None:
    job_id = submit(impatient)
    with (
        running_api(impatient, tmp_path) as settings,
        httpx.Client(
            base_url=settings.service_url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        ) as http,
    ):
        with write(impatient) as connection:
            connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update())
            began_s = time.monotonic()
            answer = http.post(f"/v1/jobs/{job_id}:cancel", timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
            assert time.monotonic() - began_s < 10
            assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "QUEUED", "who reads does not wait"
        assert http.post(f"/v1/jobs/{job_id}:cancel").json()["state"] == "CANCELLED"


class Cause(Exception):
    """An error of a driver library; Postgres' have a code."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def error_of(kind: type[DBAPIError], cause: Exception, *, invalidated: bool = False) -> DBAPIError:
    return kind("SELECT secret", {}, cause, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (error_of(OperationalError, Cause("server closed the connection unexpectedly")), "unavailable"),
        (error_of(OperationalError, Cause("canceling statement due to lock timeout", "55P03")), "unavailable"),
        (error_of(OperationalError, sqlite3.OperationalError("database is locked")), "unavailable"),
        (error_of(InternalError, Cause("cannot execute INSERT in a read-only transaction", "25006")), "unavailable"),
        (error_of(ProgrammingError, Cause("the connection was lost"), invalidated=True), "unavailable"),
        (PoolTimeout("QueuePool limit of size 8 overflow 16 reached"), "unavailable"),
        (error_of(OperationalError, Cause("could not extend file", "53100")), "insufficient_storage"),
        (error_of(OperationalError, sqlite3.OperationalError("database or disk is full")), "insufficient_storage"),
        (error_of(ProgrammingError, Cause("syntax error")), None),
        (error_of(IntegrityError, Cause("duplicate key", "23505")), None),
    ],
)
def test_what_an_error_of_the_database_means(error: Exception, code: str | None) -> None:
    fault = fault_of(error)
    assert (fault.code if fault else None) == code
    assert fault is None or "secret" not in str(fault)


@needs_postgres
def test_a_text_that_postgres_cannot_hold_is_the_clients_fault(postgres: Engine, tmp_path: Path) -> None:
    with (
        running_api(postgres, tmp_path) as settings,
        httpx.Client(
            base_url=settings.service_url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        ) as http,
    ):
        for path in ("/v1/jobs/a%00b", "/v1/datasets/%00", "/v1/jobs/%00/manifest"):
            answer = http.get(path)
            assert answer.status_code in (404, 422), f"{path}: {answer.text}"


def in_threads(*work: object) -> list[object]:
    """Run functions at the same time; return what each returned or raised."""
    found: list[object] = [None] * len(work)
    barrier = threading.Barrier(len(work))

    def run(number: int) -> None:
        barrier.wait()
        try:
            found[number] = work[number]()  # type: ignore[operator]
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@needs_postgres
def test_a_deadlock_is_run_again(postgres: Engine) -> None:
    with write(postgres) as connection:
        row = connection.execute(select(datasets)).mappings().one()
        connection.execute(datasets.insert().values(dict(row) | {"id": "dataset_b", "rows": 100}))
    runs: list[str] = []
    both = threading.Barrier(2)

    def add_one(first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            runs.append(first)
            for number, name in enumerate((first, second)):
                one = datasets.c.id == name
                connection.execute(datasets.update().where(one).values(rows=datasets.c.rows + 1))
                if number == 0:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        both.wait(timeout=2)  # only the first two runs meet

        transact(postgres, work)

    found = in_threads(lambda: add_one(DATASET_ID, "dataset_b"), lambda: add_one("dataset_b", DATASET_ID))
    assert found == [None, None]
    assert len(runs) == 3
    with read(postgres) as connection:
        assert connection.execute(select(datasets.c.rows)).scalars().all() == [102, 102]


@needs_postgres
def test_what_loses_every_race_fails_in_the_end(postgres: Engine) -> None:
    runs: list[None] = []

    def work(connection: Connection) -> None:
        runs.append(None)
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))

    with pytest.raises(OperationalError):
        transact(postgres, work)
    assert len(runs) == engine_module.TRIES


def test_a_fault_that_is_no_lost_race_is_not_run_again(engine: Engine) -> None:
    runs: list[None] = []

    def work(connection: Connection) -> None:
        runs.append(None)
        connection.execute(text("SELECT no_such_column FROM jobs"))

    with pytest.raises(DBAPIError):
        transact(engine, work)
    assert len(runs) == 1


@needs_postgres
def test_one_key_at_the_same_time_is_one_answer(postgres: Engine) -> None:
    def submit_keyed() -> Answer:
        def make(connection: Connection) -> Answer:
            row = submit_job(connection, spec())
            time.sleep(0.05)
            return Answer(202, row["id"])

        return answer_once(postgres, make, KeyedRequest("key", "POST /v1/jobs"))

    answers = in_threads(*[submit_keyed] * 6)
    assert len({answer.body for answer in answers if isinstance(answer, Answer)}) == 1, answers
    with read(postgres) as connection:
        assert connection.execute(select(func.count()).select_from(jobs)).scalar_one() == 1
        assert connection.execute(select(func.count()).select_from(idempotency)).scalar_one() == 1


@needs_postgres
def test_two_jobs_that_embed_one_shard_agree_on_its_entry(postgres: Engine) -> None:
    for _ in range(2):
        submit(postgres)
    attempts = [claim_it(postgres), claim_it(postgres)]

    def commit(number: int) -> object:
        entry = cache_entry("shard", object_key=f"cache/{number}.parquet")

        def work(connection: Connection) -> object:
            found = commit_cached(connection, attempts[number], entry)
            time.sleep(0.1)
            return found

        return transact(postgres, work)

    first, second = in_threads(lambda: commit(0), lambda: commit(1))
    assert first == second
    with read(postgres) as connection:
        assert connection.execute(select(cache.c.object_key)).scalars().all() == [first.object_key]  # type: ignore[attr-defined]


@needs_postgres
def test_a_data_set_that_a_job_takes_at_this_moment_is_not_deleted(postgres: Engine) -> None:
    def submit_slowly(connection: Connection) -> str:
        row = submit_job(connection, spec())
        time.sleep(0.3)
        return str(row["id"])

    def delete_a_bit_later() -> None:
        time.sleep(0.1)
        transact(postgres, lambda connection: delete_dataset(connection, DATASET_ID))

    job_id, refused = in_threads(lambda: transact(postgres, submit_slowly), delete_a_bit_later)
    assert isinstance(refused, InUse)
    assert job(postgres, str(job_id))["state"] == "QUEUED"
