"""Drivers as processes of this machine: each in a group of its own, known by a marker, and ended without a trace."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from superbatch_server.service.runners.processes import (
    ATTEMPT_KEY,
    PARENT_KEY,
    identity,
    kill,
    marked_processes,
    minimal_environment,
    orphaned_processes,
)
from superbatch_server.service.runners.protocol import Assignment, IsLost

log = logging.getLogger("superbatch.supervisor")

_SWEEP_LIMIT_S = 5.0


class DriverProcess:
    """One attempt's driver and everything that it started."""

    def __init__(self, command: Sequence[str], *, attempt: str, variables: Mapping[str, str], log_path: Path) -> None:
        """Start it: `attempt` is <job>:<token>, `variables` are added to a minimal environment."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._marker = f"{ATTEMPT_KEY}={attempt}"
        marked = {**variables, ATTEMPT_KEY: attempt, PARENT_KEY: identity(os.getpid())}
        leash = (sys.executable, "-m", "superbatch_server.service.runners.leash", str(os.getpid()))
        with log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env=minimal_environment(os.environ) | marked,
                start_new_session=True,
            )
        self.pid: int | None = self._process.pid

    def outcome(self) -> str | None:
        """Return how the driver ended, None while it runs. It is not reaped yet, so its group's id is still its own."""
        if self._process.returncode is not None:
            return _said(self._process.returncode)
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return _said(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    def terminate(self) -> None:
        """Ask the driver to stop."""
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGTERM)

    def destroy(self) -> None:
        """Kill whatever is left: the group, then every process with the attempt's marker; returns when all are gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        deadline = time.monotonic() + _SWEEP_LIMIT_S
        while (left := marked_processes(self._marker)) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            time.sleep(0.02)


class LocalRunner:
    """Starts the driver command on this machine."""

    name = "local"

    def __init__(self, command: Sequence[str], *, grace_s: float) -> None:
        """`grace_s`: what an orphan is given to end by itself."""
        self._command, self._grace_s = command, grace_s
        self._orphans: dict[int, float] = {}

    def is_ready(self) -> bool:
        """A process can be started at any time."""
        return True

    def start(self, assignment: Assignment) -> DriverProcess:
        """Start a process."""
        return DriverProcess(
            self._command, attempt=assignment.name, variables=assignment.variables(), log_path=assignment.log_path
        )

    def sweep(self, is_lost: IsLost) -> None:  # noqa: ARG002 - an orphan is known by its dead parent
        """Kill what a dead supervisor's drivers left."""
        now = time.monotonic()
        self._orphans = {pid: self._orphans.get(pid, now) for pid in orphaned_processes()}
        for pid, since in self._orphans.items():
            if now - since >= self._grace_s:
                log.warning("process %s of an attempt outlived its supervisor and is killed", pid)
                kill(pid)


def _said(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
