"""The supervisor: claims jobs, has a runner start one driver for each, and cleans up after every one of them.

It renews no lease: a driver's own heartbeats do. It looks at the queue every `poll_s`. The job of a driver that is gone
is released at once; a driver whose job was cancelled or taken over is asked to stop, and killed after `stop_grace_s`.
Several supervisors may share a catalog. One that is told to stop stops its drivers; their jobs are QUEUED again.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread

from sqlalchemy import Engine, select

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.claims import (
    Claim,
    attempt_ended,
    attempt_started,
    cancel_abandoned,
    claim,
)
from superbatch_server.service.catalog.engine import UnsuitableDatabase, create_engine, read, wakeups_of, write
from superbatch_server.service.catalog.listener import listening
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.catalog.segments import mark_end_logged, newest_log_files, unlogged_ends
from superbatch_server.service.catalog.supervisors import Identity
from superbatch_server.service.catalog.tables import jobs
from superbatch_server.service.catalog.wakeups import QUEUE
from superbatch_server.service.runners import Assignment, Run, Runner, leash, open_runner
from superbatch_server.service.settings import Settings, read_settings
from superbatch_server.service.upkeep.garbage.collector import GC_POLL_S, Places, collect_pending
from superbatch_server.service.upkeep.garbage.ownership import MARK_POLL_S, mark_store
from superbatch_server.service.upkeep.presence import present
from superbatch_server.service.upkeep.upload_sweep import SWEEP_S, remove_unneeded
from superbatch_server.service.upkeep.verification import verify_pending
from superbatch_server.service.upkeep.withdrawal import search_pending
from superbatch_server.service.watching.log_lines import set_up_logging
from superbatch_server.storage.roots import open_roots
from superbatch_server.storage.store import ArtifactStore, open_store
from superbatch_server.storage.uploads import Uploads

log = logging.getLogger("superbatch.supervisor")

MIN_FREE_BYTES = 1 << 20
"""In the data directory; with less no attempt is begun."""

_AFTER_FAULT_S = 2.0
_SWEEP_S = 5.0


@dataclass
class Running:
    """A claim and its driver; `kill_at` is set once it has been asked to stop."""

    claim: Claim
    run: Run
    kill_at: float | None = None


class Supervisor:
    """Runs drivers until it is told to stop."""

    def __init__(
        self, *, engine: Engine, settings: Settings, store: ArtifactStore, runner: Runner | None = None
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._store = store
        self._runner = runner or open_runner(settings)
        self._running: list[Running] = []
        self._sweep_at = 0.0
        self._is_stopping = False
        self._is_short_of_room = False
        self.id = f"supervisor_{secrets.token_hex(8)}"

    def run(self, stop: threading.Event) -> None:
        """Look at the queue when it is rung for, and every `poll_s`, until `stop` is set; then stop the drivers."""
        rung = threading.Event()
        with (
            present(self._engine, self._identity(), num_running=lambda: len(self._running)),
            wakeups_of(self._engine).heard_by(lambda name: rung.set() if name == QUEUE else None),
        ):
            while not stop.is_set():
                rung.clear()
                try:
                    self.look()
                except Exception:
                    # Drivers run on without us for a lease; a database or a store that is away comes back.
                    log.exception("the supervisor could not finish its round and tries again in %s s", _AFTER_FAULT_S)
                    stop.wait(_AFTER_FAULT_S)
                rung.wait(self._settings.poll_s)
            self.stop_drivers()

    def _identity(self) -> Identity:
        settings = self._settings
        return Identity(self.id, socket.gethostname(), os.getpid(), self._runner.name, settings.max_running)

    def look(self) -> None:
        """Do one round."""
        self._release_ended()
        self._stop_unwanted()
        self._sweep_leftovers()
        cancel_abandoned(self._engine)
        self._start_claimed()
        self._log_ends()

    def stop_drivers(self) -> None:
        """Stop every driver within `stop_grace_s` and put its job back into the queue."""
        self._is_stopping = True
        for running in self._running:
            running.run.terminate()
        deadline = time.monotonic() + self._settings.stop_grace_s
        while time.monotonic() < deadline and any(r.run.outcome() is None for r in self._running):
            time.sleep(0.02)
        for running in self._running:
            running.run.destroy()
        self._release_ended()

    def _release_ended(self) -> None:
        for running in list(self._running):
            outcome = running.run.outcome()
            if outcome is None:
                continue
            running.run.destroy()
            with write(self._engine) as connection:
                attempt_ended(
                    connection,
                    running.claim.job_id,
                    running.claim.token,
                    outcome,
                    max_crashes=self._settings.max_crashes,
                    crashed=not self._is_stopping,
                )
            self._running.remove(running)
            of = {"job": running.claim.job_id, "attempt": running.claim.token}
            log.info("attempt ended: %s", outcome, extra={"fields": of})

    def _stop_unwanted(self) -> None:
        held = self._held_states()
        for running in self._running:
            state = held.get((running.claim.job_id, running.claim.token))
            if state == JobState.RUNNING:
                continue
            if running.kill_at is None:
                running.kill_at = time.monotonic() + self._settings.stop_grace_s
                # One that has released or finished its job is about to exit; it may still write the log's end.
                if state in (None, JobState.CANCELLING):
                    running.run.terminate()
            elif time.monotonic() >= running.kill_at:
                running.run.destroy()

    def _held_states(self) -> dict[tuple[str, int], str]:
        if not self._running:
            return {}
        ids = [running.claim.job_id for running in self._running]
        with read(self._engine) as connection:
            rows = connection.execute(select(jobs.c.id, jobs.c.token, jobs.c.state).where(jobs.c.id.in_(ids)))
            return {(row.id, row.token): row.state for row in rows}

    def _start_claimed(self) -> None:
        settings = self._settings
        while len(self._running) < settings.max_running and self._runner.is_ready() and self._has_room():
            claimed = claim(
                self._engine, self.id, socket.gethostname(), settings.first_lease_ms, max_crashes=settings.max_crashes
            )
            if claimed is None:
                return
            self._start(claimed)

    def _has_room(self) -> bool:
        """Claim that an attempt could write its first words: one that cannot would only be counted as a crash."""
        free_bytes = shutil.disk_usage(self._settings.data_dir).free
        if free_bytes < MIN_FREE_BYTES and not self._is_short_of_room:
            log.warning("no job is begun while %s has %d bytes free", self._settings.data_dir, free_bytes)
        self._is_short_of_room = free_bytes < MIN_FREE_BYTES
        return not self._is_short_of_room

    def _start(self, claimed: Claim) -> None:
        log_path = self._settings.logs_dir / f"{claimed.job_id}-{claimed.token}.log"
        assignment = Assignment(
            claimed.job_id, claimed.token, claimed.secret, service_url=self._settings.driver_url, log_path=log_path
        )
        try:
            run = self._runner.start(assignment)
        except OSError as error:
            with write(self._engine) as connection:
                attempt_ended(
                    connection,
                    claimed.job_id,
                    claimed.token,
                    f"could not start: {error}",
                    max_crashes=self._settings.max_crashes,
                )
            return
        self._running.append(Running(claimed, run))
        of = {"job": claimed.job_id, "attempt": claimed.token}
        log.info("attempt began, runner %s, process %s", self._runner.name, run.pid, extra={"fields": of})
        with write(self._engine) as connection:
            attempt_started(connection, claimed, pid=run.pid, log_path=str(log_path))

    def _log_ends(self) -> None:
        with read(self._engine) as connection:
            ended = {job_id: newest_log_files(connection, job_id) for job_id in unlogged_ends(connection)}
        for job_id, files in ended.items():
            for file in files:
                self._store.put_new(file.key, file.text.encode())
            with write(self._engine) as connection:
                mark_end_logged(connection, job_id)

    def _sweep_leftovers(self) -> None:
        """Have the runner end what lost attempts left, once they have had the time to end by themselves."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + min(_SWEEP_S, self._settings.stop_grace_s)
            self._runner.sweep(self._is_lost)

    def _is_lost(self, job_id: str, token: int) -> bool:
        """Claim that an attempt does not hold its job any more; a job of another deployment is none of ours."""
        with read(self._engine) as connection:
            row = connection.execute(select(jobs.c.token, jobs.c.state).where(jobs.c.id == job_id)).one_or_none()
        return row is not None and (row.token != token or row.state not in (JobState.RUNNING, JobState.CANCELLING))


def work_until(stop: threading.Event, work: Callable[[], bool], *, poll_s: float) -> None:
    """Do one piece of background work after the other until `stop` is set; `work` returns whether there was any."""
    while not stop.is_set():
        try:
            found_work = work()
        except Exception:
            thread = threading.current_thread().name
            log.exception("%s could not finish a piece and tries again in %s s", thread, _AFTER_FAULT_S)
            stop.wait(_AFTER_FAULT_S)
            continue
        if not found_work:
            stop.wait(poll_s)


def main(arguments: list[str]) -> int:
    """Run a supervisor until SIGTERM; the one argument is the parent's process id."""
    leash.watch_parent(int(arguments[0]))
    settings = read_settings(os.environ)
    set_up_logging(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = create_engine(settings.database_url.get_secret_value())
    try:
        migrate(engine)
    except UnsuitableDatabase as error:
        print(f"superbatch serve: {error}", file=sys.stderr, flush=True)
        return 2
    roots = open_roots(settings.roots)
    store, uploads = open_store(settings.store_url), Uploads(settings.uploads_dir)
    places = Places(engine, store, uploads, settings)
    background: dict[str, tuple[Callable[[], bool], float]] = {
        "verification": (lambda: verify_pending(engine, roots), settings.poll_s),
        "withdrawal": (lambda: search_pending(engine, store), settings.poll_s),
        "uploads": (lambda: bool(remove_unneeded(engine, uploads, settings)), SWEEP_S),
        "mark": (lambda: mark_store(engine, store), MARK_POLL_S),
        "gc": (lambda: collect_pending(places, f"{socket.gethostname()}:{os.getpid()}"), GC_POLL_S),
    }
    for name, (work, poll_s) in background.items():
        Thread(target=work_until, args=(stop, work), kwargs={"poll_s": poll_s}, name=name, daemon=True).start()
    with listening(engine):
        Supervisor(engine=engine, settings=settings, store=store).run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
