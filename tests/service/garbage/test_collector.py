"""What a collection removes and what it leaves, case by case; `test_any_order.py` mixes the cases."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from sqlalchemy import update

from superbatch_server.schemas.errors import Unavailable, WrongState
from superbatch_server.schemas.garbage import GarbageCount, GarbageKind, GarbageReport, GarbageRunState
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog import gc_runs, queue, tables
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.upkeep.garbage.collector import collect_pending
from superbatch_server.storage.scratch_names import ray_folder, scratch_name
from superbatch_server.storage.store import ArtifactStore, RemoteStore, open_store
from tests.service.catalog.builders import DATASET_ID, claim_if, expire, held, job, sha
from tests.service.databases import fresh_catalog, on_both
from tests.service.garbage.litter import LATER_S, Litter

DAY_S = 86_400


@pytest.fixture(params=on_both())
def litter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Litter]:
    with fresh_catalog(request.param, tmp_path) as engine:
        yield Litter(engine, open_store(str(tmp_path / "store")), tmp_path)


@pytest.fixture(params=["local", "remote"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Litter]:
    """The same on both kinds of store."""
    local = request.param == "local"
    store: ArtifactStore
    store = open_store(str(tmp_path / "store")) if local else RemoteStore("memory:///", store=MemoryStore())
    with fresh_catalog("sqlite", tmp_path) as engine:
        yield Litter(engine, store, tmp_path)


def running(litter: Litter) -> Attempt:
    """Submit a job on the data set that is there, and claim it."""
    litter.submit(DATASET_ID)
    return held(claim_if(litter.engine))


def counts(report: GarbageReport) -> dict[str, int]:
    return {str(count.kind): count.files for count in report.found}


def end(litter: Litter, job_id: str, state: JobState) -> None:
    with write(litter.engine) as connection:
        queue.end_job(connection, job_id, state)


def test_what_is_published_stays_and_what_lost_a_race_goes(anywhere: Litter) -> None:
    attempt = running(anywhere)
    history = anywhere.history(attempt.job_id)
    for _ in range(2):
        anywhere.spoil_batch(attempt, history, job(anywhere.engine, attempt.job_id)["next_seq"])
        assert anywhere.publish(attempt)
    report = anywhere.collect()
    assert counts(report) == {"score_shard": 2}
    assert report.found[0].examples == sorted(report.found[0].examples)
    assert len(anywhere.check_readable()) == 4
    assert anywhere.collect().files == 0


def test_what_may_still_be_committed_stays_however_old_it_looks(litter: Litter) -> None:
    attempt = running(litter)
    row = litter.row_of(attempt)
    assert row is not None
    written = litter.write_batch(attempt, row["history_id"], 0)
    entry = litter.write_cache(attempt, "shard")
    assert litter.collect().files == 0
    assert litter.commit(attempt, row, written)
    assert litter.commit_cache(attempt, entry) == entry
    assert len(litter.check_readable()) == 3


def test_a_failed_job_may_be_retried_so_its_next_batch_stays_and_a_cancelled_ones_goes(litter: Litter) -> None:
    attempt = running(litter)
    litter.write_batch(attempt, litter.history(attempt.job_id), 0)
    end(litter, attempt.job_id, JobState.FAILED)
    assert litter.collect().files == 0
    end(litter, attempt.job_id, JobState.CANCELLED)
    assert counts(litter.collect()) == {"list": 1, "score_shard": 1}


def test_a_zombies_files_go_when_its_lease_is_taken_over(litter: Litter) -> None:
    zombie = running(litter)
    lost = litter.write_cache(zombie, "shard")
    expire(litter.engine, zombie.job_id)
    assert litter.collect().files == 0, "nobody claimed the job, so it may still commit"
    attempt = held(claim_if(litter.engine))
    own = litter.write_cache(attempt, "shard")
    assert counts(litter.collect()) == {"index": 1}
    assert litter.commit_cache(zombie, lost) is None
    assert litter.commit_cache(attempt, own) == own
    assert not litter.store.exists(lost.object_key)


def test_a_deleted_job_leaves_garbage_only(litter: Litter) -> None:
    attempt = running(litter)
    assert litter.publish(attempt)
    log = litter.settings.logs_dir / f"{attempt.job_id}-1.log"
    log.parent.mkdir()
    log.write_text("said")
    end(litter, attempt.job_id, JobState.SUCCEEDED)
    assert litter.collect().files == 0
    litter.forget_job(attempt.job_id)
    assert counts(litter.collect()) == {"list": 1, "score_shard": 1, "job_file": 3, "attempt_log": 1}
    assert litter.stored_keys() == set()
    assert not log.exists()
    assert not list((litter.settings.data_dir / "store").glob("jobs/*")), "empty folders go too"


def test_the_cache_stays_while_a_data_set_of_the_same_content_is_registered(litter: Litter) -> None:
    attempt = running(litter)
    entry = litter.write_cache(attempt, "shard")
    litter.commit_cache(attempt, entry)
    end(litter, attempt.job_id, JobState.SUCCEEDED)
    litter.forget_job(attempt.job_id)
    assert litter.collect().files == 0, "another job of this data set computes nothing"
    litter.forget_dataset(DATASET_ID)
    litter.register("dataset_00000000000000aa", "ab" * 32)
    assert litter.collect().files == 0, "registered again, it is the same data set"
    litter.forget_dataset("dataset_00000000000000aa")
    litter.register(DATASET_ID, sha("other content"))
    assert counts(litter.collect(dry_run=True)) == {"index": 1}
    assert litter.check_readable() == {entry.object_key}, "a dry run removes nothing"
    assert counts(litter.collect()) == {"index": 1}
    assert litter.stored_keys() == set()
    again = running(litter)
    assert litter.look_up(again, "shard") is None


def test_a_shard_that_another_data_set_shares_stays(litter: Litter) -> None:
    litter.register("dataset_00000000000000aa", sha("other"))
    first, second = running(litter), None
    litter.commit_cache(first, litter.write_cache(first, "shard"))
    litter.submit("dataset_00000000000000aa")
    second = held(claim_if(litter.engine))
    found = litter.look_up(second, "shard")
    assert found is not None
    for attempt in (first, second):
        end(litter, attempt.job_id, JobState.CANCELLED)
        litter.forget_job(attempt.job_id)
    litter.forget_dataset(DATASET_ID)
    assert litter.collect().files == 0
    litter.forget_dataset("dataset_00000000000000aa")
    assert counts(litter.collect()) == {"index": 1}


def test_an_entry_of_before_uses_were_noted_stays(litter: Litter) -> None:
    attempt = running(litter)
    litter.commit_cache(attempt, litter.write_cache(attempt, "shard"))
    litter.forget_uses()
    assert litter.collect().files == 0


def test_young_files_stay_and_are_counted(litter: Litter) -> None:
    attempt = running(litter)
    litter.write_batch(attempt, litter.history(attempt.job_id), 0)
    end(litter, attempt.job_id, JobState.CANCELLED)
    with write(litter.engine) as connection:
        run = gc_runs.begin_run(connection, dry_run=False, min_age_s=DAY_S)
    assert collect_pending(litter.places, "worker")
    with read(litter.engine) as connection:
        report = gc_runs.get_run(connection, run.id).report
    assert (report.files, report.young_files, report.looked_at) == (0, 2, 2)
    assert report.young_bytes > 0
    assert len(litter.stored_keys()) == 2


def test_names_that_the_service_did_not_give_are_never_touched(anywhere: Litter) -> None:
    names = ["notes.txt", "jobs/mine.parquet", f"cache/index/{sha('x')}/mine.parquet", "jobs/job_0/x/lists/y.parquet"]
    for name in names:
        anywhere.store.put_new(name, b"kept")
    report = anywhere.collect()
    assert (report.files, report.unknown_files) == (0, 4)
    assert set(report.unknown_examples) < set(names)
    assert anywhere.stored_keys() == set(names)


def test_an_unfinished_write_goes_once_nobody_can_be_at_it(litter: Litter) -> None:
    partial = litter.settings.data_dir / "store/.partial" / ("0" * 32)
    partial.write_bytes(b"half")
    assert litter.collect(later_s=0).files == 0, "even without any age guard"
    assert counts(litter.collect()) == {"partial": 1}
    assert not partial.exists()


def test_scratch_of_dead_attempts_goes_and_that_of_a_live_one_stays(
    litter: Litter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    attempt = running(litter)
    scratch = litter.settings.data_dir / "scratch"
    live = scratch / scratch_name(attempt.job_id, 1)
    dead = scratch / scratch_name("job_0000000000000000", 4)
    other = scratch / "of-somebody-else"
    for folder in (live, dead, other):
        (folder / "ray").mkdir(parents=True)
        (folder / "ray/file").write_bytes(b"12345")
    rays = ray_folder(scratch, attempt.job_id, 1)
    rays.mkdir(parents=True)
    report = litter.collect()
    assert counts(report) == {"scratch": 1}
    assert (report.bytes, report.found[0].examples) == (5, [str(dead)])
    assert live.exists()
    assert other.exists()
    litter.crash(attempt)
    litter.collect()
    assert not live.exists()
    assert not rays.exists(), "Ray's folder outside the scratch folder is known by the attempt's row"


def test_uploads_of_deleted_jobs_go(litter: Litter) -> None:
    attempt = running(litter)
    litter.uploads.begin(attempt.job_id, sha("weights"), size_bytes=10)
    litter.uploads.begin("job_0000000000000000", sha("weights"), size_bytes=10)
    assert counts(litter.collect()) == {"upload": 1}
    assert [found.job_id for found in litter.uploads.all()] == [attempt.job_id]


def test_of_two_that_begin_at_once_the_second_waits_and_is_refused(litter: Litter) -> None:
    def begin() -> str:
        with write(litter.engine) as connection:
            return gc_runs.begin_run(connection, dry_run=True, min_age_s=0).id

    with ThreadPoolExecutor(1) as pool:
        with write(litter.engine) as connection:
            first = gc_runs.begin_run(connection, dry_run=True, min_age_s=0)
            second = pool.submit(begin)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.3)
        with pytest.raises(WrongState, match=first.id):
            second.result()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_run_that_is_taken_over_goes_on_from_what_was_removed(litter: Litter, dry_run: bool) -> None:
    attempt = running(litter)
    litter.write_batch(attempt, litter.history(attempt.job_id), 0)
    end(litter, attempt.job_id, JobState.CANCELLED)
    gone = GarbageCount(kind=GarbageKind.LIST, files=2, bytes=10, examples=["jobs/gone"])
    with write(litter.engine) as connection:
        run = gc_runs.begin_run(connection, dry_run=dry_run, min_age_s=0)
        assert gc_runs.take_run(connection, "dead")
        gc_runs.note_progress(connection, run.id, "dead", GarbageReport(found=[gone], files=2, bytes=10, looked_at=9))
        connection.execute(update(tables.gc_runs).values(updated_ms=0))
    assert collect_pending(litter.places, "worker", clock=lambda: time.time() + LATER_S)
    with read(litter.engine) as connection:
        report = gc_runs.get_run(connection, run.id).report
    assert counts(report) == {"list": 1 if dry_run else 3, "score_shard": 1}
    assert (report.files, report.looked_at) == (2 if dry_run else 4, 2)
    assert len(report.found[0].examples) == (1 if dry_run else 2)


class Stops:
    """A store whose process dies after some removals."""

    def __init__(self, store: ArtifactStore, *, after: int) -> None:
        self._store, self._left = store, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def remove(self, keys: list[str]) -> None:
        for key in sorted(keys):
            if self._left == 0:
                raise Unavailable("a store must answer; got nothing (store). Wait.")
            self._left -= 1
            self._store.remove([key])


@pytest.mark.parametrize("after", range(3))
def test_a_run_that_dies_in_the_middle_loses_nothing_and_the_next_one_does_the_rest(litter: Litter, after: int) -> None:
    litter.register("dataset_00000000000000aa", sha("other"))
    kept = running(litter)
    assert litter.publish(kept)
    litter.submit("dataset_00000000000000aa")
    gone = held(claim_if(litter.engine))
    litter.commit_cache(gone, litter.write_cache(gone, "shard"))
    litter.write_batch(gone, litter.history(gone.job_id), 0)
    end(litter, gone.job_id, JobState.CANCELLED)
    litter.forget_job(gone.job_id)
    litter.forget_dataset("dataset_00000000000000aa")
    whole = litter.places
    litter.places = type(whole)(whole.engine, Stops(whole.store, after=after), whole.uploads, whole.settings)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        litter.collect()
    published = litter.check_readable()
    assert len(published) == 2
    litter.places = whole
    assert litter.collect().files == 3 - after
    assert litter.check_readable() == published


def test_one_run_at_a_time_and_a_dead_workers_run_is_taken_over(litter: Litter) -> None:
    with write(litter.engine) as connection:
        run = gc_runs.begin_run(connection, dry_run=True, min_age_s=0)
    with pytest.raises(WrongState, match=run.id), write(litter.engine) as connection:
        gc_runs.begin_run(connection, dry_run=True, min_age_s=0)
    with write(litter.engine) as connection:
        assert gc_runs.take_run(connection, "first") is not None
        assert gc_runs.take_run(connection, "second") is None, "the first one is alive"
        connection.execute(gc_runs.gc_runs.update().values(updated_ms=gc_runs.gc_runs.c.updated_ms - 61_000))
        assert gc_runs.take_run(connection, "second") is not None
        assert not gc_runs.note_progress(connection, run.id, "first", GarbageReport())
        assert gc_runs.note_progress(
            connection, run.id, "second", GarbageReport(), state=GarbageRunState.FAILED, error="why"
        )
        assert gc_runs.get_run(connection, run.id).error == "why"
    for _ in range(gc_runs.KEPT_RUNS + 2):
        litter.collect(dry_run=True)
    with read(litter.engine) as connection:
        assert len(connection.execute(gc_runs.gc_runs.select()).all()) <= gc_runs.KEPT_RUNS + 1


def test_a_listing_is_read_page_by_page(anywhere: Litter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superbatch_server.storage.store.PAGE_OBJECTS", 50)
    for number in range(120):
        anywhere.store.put_new(f"jobs/job_{0:016x}/hist_{0:016x}/log/{number:012d}.json", b"{}")
    assert [len(page) for page in anywhere.store.pages()] == [50, 50, 20]
    assert anywhere.collect().files == 120
    assert anywhere.stored_keys() == set()


def test_a_files_age_is_that_of_its_last_change(litter: Litter) -> None:
    log = litter.settings.logs_dir / "job_0000000000000000-1.log"
    log.parent.mkdir()
    log.write_text("said")
    os.utime(log, (time.time() - 10, time.time() - 10))
    assert litter.collect(later_s=-20).young_files == 1
    assert counts(litter.collect(later_s=0)) == {"attempt_log": 1}
    assert LATER_S > DAY_S
