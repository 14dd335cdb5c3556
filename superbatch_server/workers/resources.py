"""Whether the machine can run an attempt, asked before anything is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from superbatch_server.schemas.attempts import Runtime
from superbatch_server.schemas.errors import ResourcesTooSmall

WARN_ABOVE, REFUSE_ABOVE = 1.0, 4.0
RAY_BYTES = 700 << 20  # measured: ray.init with its helper processes, 0.65 GB
WORKER_BYTES = 350 << 20  # measured: a worker with torch and a tiny encoder, 0.3 GB
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What an attempt may use."""

    cores: int
    available_bytes: int


def this_machine() -> Machine:
    """Return the cores that this process may run on, and the memory that is free."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cores=cores, available_bytes=min(psutil.virtual_memory().available, _left_in_cgroup()))


def check_resources(runtime: Runtime, machine: Machine, *, num_pools: int) -> str | None:
    """Return a warning when the threads of the workers exceed the cores, None when they fit.

    Args:
        num_pools: pools of `num_workers` that run at the same time; 0 where no Ray is started.
    Raises: ResourcesTooSmall above four times the cores, or when memory cannot hold the workers.
    """
    threads = runtime.num_workers * runtime.threads_per_worker
    load = threads / machine.cores
    needed = (RAY_BYTES + num_pools * runtime.num_workers * WORKER_BYTES) if num_pools else 0
    got = f"num_workers = {runtime.num_workers}, threads_per_worker = {runtime.threads_per_worker}"
    if load > REFUSE_ABOVE:
        raise ResourcesTooSmall(
            f"workers x threads must not exceed {REFUSE_ABOVE:g} times the cores; got {threads} on {machine.cores} "
            f"({got}). Lower SUPERBATCH_NUM_WORKERS or SUPERBATCH_THREADS_PER_WORKER."
        )
    if needed > machine.available_bytes:
        raise ResourcesTooSmall(
            f"memory must hold Ray and {num_pools} pools of workers, about {needed >> 20} MiB; got "
            f"{machine.available_bytes >> 20} MiB free ({got}). Lower SUPERBATCH_NUM_WORKERS, or use a larger machine."
        )
    if load > WARN_ABOVE:
        return f"workers x threads exceed the cores: {threads} on {machine.cores} ({got}); the job will be slower"
    return None


def _left_in_cgroup() -> int:
    """Return the memory that a container's limit leaves; very much where there is none."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return max(0, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return 1 << 62
