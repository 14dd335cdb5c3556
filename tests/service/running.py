"""A real API on a real port, supervisors beside it, and waiting with a deadline."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Engine, select

from superbatch_server.service.app import create_app
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.tables import attempts
from superbatch_server.service.runners.processes import marked_processes
from superbatch_server.service.settings import Settings
from superbatch_server.service.supervisor import Supervisor
from superbatch_server.storage.store import open_store

FAKE_DRIVER = str(Path(__file__).parent / "fake_driver.py")
TOKEN = "the-users-token"


def wait_until(claim: Callable[[], Any], what: str, *, limit_s: float = 30) -> Any:
    """Return the first true value of `claim`, or fail after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := claim():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s: {what}")


@contextlib.contextmanager
def running_api(engine: Engine, folder: Path, *, lease_s: float = 60.0) -> Iterator[Settings]:
    """Serve the app on a free port and yield settings with short times that name it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(
            data_dir=folder,
            port=listener.getsockname()[1],
            lease_s=lease_s,
            heartbeat_s=0.25,
            poll_s=0.05,
            stop_grace_s=0.5,
            max_crashes=1,
            driver_command=(sys.executable, FAKE_DRIVER, "work"),
        )
        app = create_app(engine=engine, settings=settings, store=open_store(settings.store_url), token=TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, "the API answers")
            yield settings
        finally:
            server.should_exit = True
            thread.join()


def with_driver(settings: Settings, mode: str) -> Settings:
    """Return the settings with another fake driver."""
    return settings.model_copy(update={"driver_command": (sys.executable, FAKE_DRIVER, mode)})


@contextlib.contextmanager
def supervising(engine: Engine, settings: Settings) -> Iterator[Supervisor]:
    """Run a supervisor in a thread, and stop it with its drivers."""
    stop = threading.Event()
    supervisor = Supervisor(engine=engine, settings=settings, store=open_store(settings.store_url))
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield supervisor
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def supervisor_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Run a supervisor as a process of its own; it is killed at the end if it is still there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SUPERBATCH_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "superbatch_server.service.supervisor", str(os.getpid())],
        env=environment | settings.environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def attempt_row(engine: Engine, job_id: str, token: int = 1) -> dict[str, Any] | None:
    """Return the row of an attempt whose process is known."""
    query = select(attempts).where(attempts.c.job_id == job_id, attempts.c.token == token, attempts.c.pid.is_not(None))
    with read(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def processes_of(job_id: str, token: int = 1) -> list[int]:
    """Return the processes of an attempt that are alive."""
    return marked_processes(f"SUPERBATCH_ATTEMPT={job_id}:{token}")
