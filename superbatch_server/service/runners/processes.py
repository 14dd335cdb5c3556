"""The processes of an attempt on this machine: what they inherit, how they are found, how they are killed.

Workers may leave the driver's process group (Ray's do), so every process of an attempt is also known by the variable
SUPERBATCH_ATTEMPT, which children inherit and which Linux shows in /proc/<pid>/environ.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

ATTEMPT_KEY = "SUPERBATCH_ATTEMPT"
PARENT_KEY = "SUPERBATCH_SUPERVISOR"
_PROC = Path("/proc")

_PASSED_ON = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TZ|TMPDIR|PYTHONHOME|PYTHONDONTWRITEBYTECODE|VIRTUAL_ENV|LD_LIBRARY_PATH"
    "|SSL_CERT_(FILE|DIR)|(HTTPS?|NO)_PROXY|(https?|no)_proxy|(AWS|GOOGLE|AZURE|RAY|CUDA|NVIDIA|NCCL)_.*"
)


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


def identity(pid: int) -> str:
    """Return namespace, pid and start time of a process: no later process is taken for it."""
    try:
        namespace = os.readlink(_PROC / "self/ns/pid").strip("pid:[]")
        started = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{pid}"
    return f"{namespace}:{pid}:{started}"


def _is_gone(parent: str) -> bool:
    namespace, _, rest = parent.partition(":")
    pid = rest.partition(":")[0]
    own_namespace = identity(os.getpid()).partition(":")[0]
    return bool(pid) and namespace == own_namespace and identity(int(pid)) != parent
