"""Any order of submits, commits, zombies, deletions and collections: nothing that a row names is ever removed."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import TestCase

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from obstore.store import MemoryStore
from sqlalchemy import select

from superbatch_server.schemas.attempts import CacheEntry
from superbatch_server.schemas.errors import InUse, LeaseLost, NotFound, WrongState
from superbatch_server.service.catalog import queue
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.tables import datasets, jobs
from superbatch_server.storage.store import RemoteStore, open_store
from tests.service.catalog.builders import DATASET_ID, expire, sha
from tests.service.databases import fresh_catalog, needs_postgres
from tests.service.garbage.litter import Litter

SHARDS = st.sampled_from(["shard 0", "shard 1"])
OTHER_DATASET = "dataset_00000000000000aa"


def _forget_durability(dbapi_connection: Any, _record: object) -> None:
    if hasattr(dbapi_connection, "set_trace_callback"):  # SQLite; a test outlives no power cut
        dbapi_connection.execute("PRAGMA synchronous = OFF")


class GarbageMachine(RuleBasedStateMachine):
    """Every invariant holds although each collection believes that all files are old."""

    database, remote = "sqlite", False
    job_ids: Bundle[str] = Bundle("job_ids")
    attempts: Bundle[tuple[Attempt, str]] = Bundle("attempts")
    batches: Bundle[tuple[Attempt, int, tuple[str, str, bytes]]] = Bundle("batches")
    entries: Bundle[tuple[Attempt, CacheEntry]] = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="superbatch-litter-"))
        self.closing = ExitStack()
        engine = self.closing.enter_context(fresh_catalog(self.database, self.folder))
        store = (
            RemoteStore("memory:///", store=MemoryStore()) if self.remote else open_store(str(self.folder / "store"))
        )
        self.litter = Litter(engine, store, self.folder)
        self.known: dict[str, CacheEntry] = {}
        """What the drivers that hold a job found in the cache, and go on reading."""

    def teardown(self) -> None:
        self.litter.collect()
        kept = self.litter.check_readable()
        assert self.litter.stored_keys() >= kept
        self.closing.close()
        shutil.rmtree(self.folder)

    @initialize(target=job_ids)
    def first(self) -> str:
        self.litter.register(OTHER_DATASET, sha("other"))
        return self.litter.submit(DATASET_ID)

    @rule(target=job_ids, dataset_id=st.sampled_from([DATASET_ID, OTHER_DATASET]))
    def submit(self, dataset_id: str) -> str:
        with read(self.litter.engine) as connection:
            there = connection.execute(select(datasets.c.id).where(datasets.c.id == dataset_id)).first()
        if there is None:
            self.litter.register(dataset_id, "ab" * 32 if dataset_id == DATASET_ID else sha("other"))
        return self.litter.submit(dataset_id)

    @rule(target=attempts)
    def claim(self):  # type: ignore[no-untyped-def]
        attempt = self.litter.claim()
        return multiple() if attempt is None else (attempt, self.litter.history(attempt.job_id))

    @rule(attempt=attempts)
    def publish(self, attempt: tuple[Attempt, str]) -> None:
        self.litter.publish(attempt[0])

    @rule(target=batches, attempt=attempts)
    def write_next(self, attempt: tuple[Attempt, str]):  # type: ignore[no-untyped-def]
        """Write the files of the next batch; their commit may come much later, or never."""
        row = self.litter.row_of(attempt[0])
        if row is None or not self._lives(attempt[0]):
            return multiple()
        return attempt[0], row["next_seq"], self.litter.write_batch(*attempt, row["next_seq"])

    @rule(batch=batches)
    def commit_written(self, batch: tuple[Attempt, int, tuple[str, str, bytes]]) -> None:
        attempt, seq, written = batch
        row = self.litter.row_of(attempt)
        if row is not None and row["next_seq"] == seq and self._lives(attempt):
            assert self.litter.commit(attempt, row, written)

    @rule(attempt=attempts, ahead=st.integers(-1, 2))
    def write_without_commit(self, attempt: tuple[Attempt, str], ahead: int) -> None:
        """A file of a batch that this or a later attempt commits with the same bytes, or that nobody ever does."""
        with read(self.litter.engine) as connection:
            next_seq = connection.execute(select(jobs.c.next_seq).where(jobs.c.id == attempt[0].job_id)).scalar() or 0
        self.litter.write_batch(*attempt, max(0, next_seq + ahead))
        self.litter.spoil_batch(*attempt, max(0, next_seq + ahead))

    @rule(target=entries, attempt=attempts, name=SHARDS)
    def write_cache(self, attempt: tuple[Attempt, str], name: str) -> tuple[Attempt, CacheEntry]:
        return attempt[0], self.litter.write_cache(attempt[0], name)

    @rule(written=entries)
    def commit_cache(self, written: tuple[Attempt, CacheEntry]) -> None:
        if self._lives(written[0]) and not self.litter.store.exists(written[1].object_key):
            raise AssertionError("an attempt that holds its job found its own file removed")
        self.litter.commit_cache(*written)

    @rule(attempt=attempts, name=SHARDS)
    def look_up(self, attempt: tuple[Attempt, str], name: str) -> None:
        found = self.litter.look_up(attempt[0], name)
        if found is not None:
            assert self.litter.store.exists(found.object_key)
            self.known[f"{attempt[0].job_id}:{attempt[0].token}:{name}"] = found

    @rule(job_id=job_ids, token=st.integers(1, 3))
    def expire(self, job_id: str, token: int) -> None:
        expire(self.litter.engine, job_id, token=token)

    @rule(attempt=attempts)
    def crash(self, attempt: tuple[Attempt, str]) -> None:
        self.litter.crash(attempt[0])

    @rule(attempt=attempts)
    def fail(self, attempt: tuple[Attempt, str]) -> None:
        with suppress(LeaseLost):
            self.litter.end(attempt[0])

    @rule(job_id=job_ids, change=st.sampled_from([queue.request_cancel, queue.retry]))
    def change(self, job_id: str, change) -> None:  # type: ignore[no-untyped-def]
        with suppress(NotFound, WrongState), write(self.litter.engine) as connection:
            change(connection, job_id)

    @rule(job_id=job_ids)
    def forget_job(self, job_id: str) -> None:
        with suppress(NotFound, WrongState, InUse):
            self.litter.forget_job(job_id)

    @rule(dataset_id=st.sampled_from([DATASET_ID, OTHER_DATASET]))
    def forget_dataset(self, dataset_id: str) -> None:
        with suppress(NotFound, InUse):
            self.litter.forget_dataset(dataset_id)

    @invariant()
    def a_collection_removes_what_it_said_and_all_of_it(self) -> None:
        foreseen = self.litter.collect(dry_run=True)
        assert self.litter.collect() == foreseen

    @invariant()
    def what_a_row_names_is_there(self) -> None:
        self.litter.check_readable()

    @invariant()
    def what_a_driver_found_is_there(self) -> None:
        for name, entry in self.known.items():
            job_id, token, _ = name.split(":")
            if self._lives(Attempt(job_id, int(token), "")):
                assert self.litter.store.exists(entry.object_key)

    def _lives(self, attempt: Attempt) -> bool:
        columns = select(jobs.c.token, jobs.c.state).where(jobs.c.id == attempt.job_id)
        with read(self.litter.engine) as connection:
            row = connection.execute(columns).one_or_none()
        return row is not None and row.token == attempt.token and row.state in ("RUNNING", "CANCELLING")


class RemoteMachine(GarbageMachine):
    """The same on a store that is no folder."""

    remote = True


class PostgresMachine(GarbageMachine):
    """The same in the other database."""

    database = "postgresql"


class LongMachine(GarbageMachine):
    """The same, for longer."""


_BRIEF = settings(max_examples=12, stateful_step_count=25, deadline=None, derandomize=True)


def _long(case: type[TestCase]) -> type[TestCase]:
    return pytest.mark.long(pytest.mark.timeout(600)(case))


TestBrief = GarbageMachine.TestCase
TestBrief.settings = settings(_BRIEF, max_examples=6)
TestRemote = _long(RemoteMachine.TestCase)
TestRemote.settings = _BRIEF
TestLong = _long(LongMachine.TestCase)
TestLong.settings = settings(_BRIEF, max_examples=30, stateful_step_count=40)
TestPostgres = needs_postgres(_long(PostgresMachine.TestCase))
TestPostgres.settings = settings(_BRIEF, max_examples=8)
