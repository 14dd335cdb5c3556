"""One run of the garbage collection: a supervisor takes a run that waits, works on it, and notes how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from superbatch_server.schemas.garbage import GarbageReport, GarbageRun, GarbageRunState
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.gc_runs import is_any_pending, note_progress, take_run
from superbatch_server.service.settings import Settings
from superbatch_server.service.upkeep.garbage.folders import folder_garbage, remove_from_disk
from superbatch_server.service.upkeep.garbage.found import Garbage, Tally
from superbatch_server.service.upkeep.garbage.keys import CacheObject, parse_key
from superbatch_server.service.upkeep.garbage.ownership import MARK, require_own_store
from superbatch_server.service.upkeep.garbage.stored import cache_garbage, job_garbage, partial_garbage, unknown_keys
from superbatch_server.storage.store import ArtifactStore, StoredFile
from superbatch_server.storage.uploads import Uploads

log = logging.getLogger("superbatch.gc")

NOTED_EVERY_S = 1.0
GC_POLL_S = 1.0


class TakenOver(Exception):
    """Another worker has the run by now."""


@dataclass(frozen=True)
class Places:
    """Where garbage may lie."""

    engine: Engine
    store: ArtifactStore
    uploads: Uploads
    settings: Settings


def collect_pending(places: Places, worker: str, *, clock: Callable[[], float] = time.time) -> bool:
    """Work on a run that waits, to its end; False when there is none."""
    with read(places.engine) as connection:
        if not is_any_pending(connection):
            return False
    with write(places.engine) as connection:
        run = take_run(connection, worker)
    if run is None:
        return False
    log.info("collection %s begins%s", run.id, " (dry run)" if run.dry_run else "")
    note = _Noting(places.engine, run, worker)
    try:
        report = collect(places, run, note=note, clock=clock)
        note.end(report, GarbageRunState.SUCCEEDED)
    except TakenOver:
        log.warning("collection %s is another worker's by now", run.id)
    except Exception as error:
        note.end(note.newest, GarbageRunState.FAILED, error=f"{type(error).__name__}: {error}"[:4000])
        raise
    return True


def collect(
    places: Places, run: GarbageRun, *, note: Callable[[Tally], None], clock: Callable[[], float] = time.time
) -> GarbageReport:
    """Look at everything once, remove what nothing refers to unless it is a dry run, and return what was found.

    Cost: one listing of the store; memory for one page of it.
    """
    require_own_store(places.engine, places.store)
    tally = Tally(older_than_s=clock() - run.min_age_s, removed=() if run.dry_run else run.report.found)
    for listed in places.store.pages():
        page = [file for file in listed if file.key != MARK]
        gone = tally.old_enough(_garbage_of(places, page, run, now_s=clock()))
        if not run.dry_run:
            places.store.remove([each.name for each in gone])
        tally.look_at(len(page))
        tally.leave(unknown_keys(page))
        tally.count(gone)
        note(tally)
    for looked_at, found in folder_garbage(places.engine, places.settings, places.uploads):
        gone = tally.old_enough(found)
        if not run.dry_run:
            remove_from_disk(gone)
        tally.look_at(looked_at)
        tally.count(gone)
        note(tally)
    return tally.report()


def _garbage_of(places: Places, page: Sequence[StoredFile], run: GarbageRun, *, now_s: float) -> list[Garbage]:
    found = partial_garbage(page, now_s=now_s)
    with read(places.engine) as connection:
        found += job_garbage(connection, page)
    if not any(isinstance(parse_key(file.key), CacheObject) for file in page):
        return found
    with read(places.engine) if run.dry_run else write(places.engine) as connection:
        younger_than_ms = now_ms(connection) - round(run.min_age_s * 1000)
        found += cache_garbage(connection, page, younger_than_ms=younger_than_ms, forget=not run.dry_run)
    return found


class _Noting:
    """Notes progress now and then, and stops a run that is another worker's by now."""

    def __init__(self, engine: Engine, run: GarbageRun, worker: str) -> None:
        self._engine, self._run, self._worker = engine, run, worker
        self._noted_s = time.monotonic()
        self.newest = run.report

    def __call__(self, tally: Tally) -> None:
        self.newest = tally.report()
        if time.monotonic() - self._noted_s < NOTED_EVERY_S:
            return
        with write(self._engine) as connection:
            if not note_progress(connection, self._run.id, self._worker, self.newest):
                raise TakenOver
        self._noted_s = time.monotonic()

    def end(self, report: GarbageReport, state: GarbageRunState, *, error: str | None = None) -> None:
        """Note how the run ended."""
        with write(self._engine) as connection:
            note_progress(connection, self._run.id, self._worker, report, state=state, error=error)
        log.info("collection %s %s: %d files, %d bytes", self._run.id, state, report.files, report.bytes)
