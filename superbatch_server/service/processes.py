"""Driver processes: started in a group of their own, known by a marker, and ended without a trace.

Workers may leave the driver's process group (Ray's do), so every process of an attempt is also known by the variable
SUPERBATCH_ATTEMPT, which children inherit and which Linux shows in /proc/<pid>/environ.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ATTEMPT_KEY = "SUPERBATCH_ATTEMPT"
PARENT_KEY = "SUPERBATCH_SUPERVISOR"
_SWEEP_LIMIT_S = 5.0
_PROC = Path("/proc")

_PASSED_ON = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TZ|TMPDIR|PYTHONHOME|PYTHONDONTWRITEBYTECODE|VIRTUAL_ENV|LD_LIBRARY_PATH"
    "|SSL_CERT_(FILE|DIR)|(HTTPS?|NO)_PROXY|(https?|no)_proxy|(AWS|GOOGLE|AZURE|RAY|CUDA|NVIDIA|NCCL)_.*"
)


class DriverProcess:
    """One attempt's driver and everything that it started."""

    def __init__(self, command: Sequence[str], *, attempt: str, variables: Mapping[str, str], log_path: Path) -> None:
        """Start it: `attempt` is <job>:<token>, `variables` are added to a minimal environment."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._marker = f"{ATTEMPT_KEY}={attempt}"
        marked = {**variables, ATTEMPT_KEY: attempt, PARENT_KEY: _identity(os.getpid())}
        leash = (sys.executable, "-m", "superbatch_server.service.leash", str(os.getpid()))
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=minimal_environment(os.environ) | marked,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def outcome(self) -> str | None:
        """Return how the driver ended, None while it runs. It is not reaped yet, so its group's id is still its own."""
        if self._process.returncode is not None:
            return _said(self._process.returncode)
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return _said(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    def terminate(self) -> None:
        """Ask the driver to stop."""
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGTERM)

    def destroy(self) -> None:
        """Kill whatever is left: the group, then every process with the attempt's marker; returns when all are gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        deadline = time.monotonic() + _SWEEP_LIMIT_S
        while (left := marked_processes(self._marker)) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            time.sleep(0.02)


def minimal_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a driver inherits: paths, locale and cloud credentials; no setting and no secret of the service."""
    passed = {key: value for key, value in environ.items() if _PASSED_ON.fullmatch(key)}
    if search_path := environ.get("PYTHONPATH"):
        passed["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in search_path.split(os.pathsep) if part)
    return passed


def marked_processes(marker: str) -> list[int]:
    """Return the processes that carry `KEY=value` in their environment; nothing where there is no /proc."""
    return [pid for pid, variables in _environments() if marker in variables]


def orphaned_processes() -> list[int]:
    """Return the processes of attempts whose supervisor, in this very process namespace, is gone."""
    orphans: list[int] = []
    for pid, variables in _environments():
        parents = [variable for variable in variables if variable.startswith(f"{PARENT_KEY}=")]
        if parents and _is_gone(parents[0].partition("=")[2]):
            orphans.append(pid)
    return orphans


def kill(pid: int) -> None:
    """Kill a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _environments() -> Iterator[tuple[int, list[str]]]:
    if not _PROC.is_dir():
        return
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                yield int(folder.name), (folder / "environ").read_bytes().decode(errors="replace").split("\0")


def _identity(pid: int) -> str:
    """Return namespace, pid and start time of a process: no later process is taken for it."""
    try:
        namespace = os.readlink(_PROC / "self/ns/pid").strip("pid:[]")
        started = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{pid}"
    return f"{namespace}:{pid}:{started}"


def _is_gone(identity: str) -> bool:
    namespace, _, rest = identity.partition(":")
    pid = rest.partition(":")[0]
    own_namespace = _identity(os.getpid()).partition(":")[0]
    return bool(pid) and namespace == own_namespace and _identity(int(pid)) != identity


def _said(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
