"""Starts the command of a loader, one process per rank or through a launcher, and ends every process it led to."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from superbatch.conformance.records import Ended, Leg

POLL_S = 0.02
OUTPUT_LINES = 30
TORCHRUN = "torchrun --nproc-per-node {world_size} --master-addr 127.0.0.1 --master-port {master_port} --no-python"


@dataclass(frozen=True, slots=True)
class ProcessLauncher:
    """Runs a loader as a command.

    command: the program and its arguments.
    template: "none" starts the command once per rank with RANK and WORLD_SIZE; "torchrun" once, behind TORCHRUN; any
        other text once, behind that text with {world_size} and {master_port} filled in.
    timeout_s: longest time of one start.
    grace_s: how long the other processes may still raise for themselves after the first one failed.
    """

    command: Sequence[str]
    template: str = "none"
    timeout_s: float = 180.0
    grace_s: float = 5.0

    def run(
        self, leg: Leg, environment: Mapping[str, str], folder: Path, *, is_kill_wanted: Callable[[], bool]
    ) -> Ended:
        """Run one start to its end, or to the moment when it is to be killed, or to its time-out.

        Args:
            leg: how many ranks.
            environment: the variables of `superbatch.conformance.trace` but RANK; they go on top of our own.
            folder: where each process writes its output.
            is_kill_wanted: asked all the time; once true, every process is killed with signal 9.
        """
        port = _free_port()
        shared = {**os.environ, **environment, "WORLD_SIZE": str(leg.world_size), "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(port)
        if self.template == "none":
            starts = [(list(self.command), {**shared, "RANK": str(rank)}) for rank in range(leg.world_size)]
        else:
            text = TORCHRUN if self.template == "torchrun" else self.template
            words = shlex.split(text.format(world_size=leg.world_size, master_port=port))
            starts = [([_found(words[0]), *words[1:], *self.command], shared)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for number, (words, variables) in enumerate(starts):
                with (folder / f"output-{number}.txt").open("wb") as output:
                    processes.append(
                        subprocess.Popen(
                            words,
                            env=variables,
                            stdin=subprocess.DEVNULL,
                            stdout=output,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                        )
                    )
            was_killed, has_timed_out = self._wait(processes, is_kill_wanted)
        finally:
            _kill(processes, marker=environment["SUPERBATCH_TRACE"])
        statuses = tuple(process.wait() for process in processes)
        return Ended(statuses, was_killed, has_timed_out, _output(folder, len(starts), statuses))

    def _wait(
        self, processes: Sequence[subprocess.Popen[bytes]], is_kill_wanted: Callable[[], bool]
    ) -> tuple[bool, bool]:
        """Return (the kill was wanted, the time ran out) once all processes ended or have to."""
        limit_s = time.monotonic() + self.timeout_s
        is_failing = False
        while any(process.poll() is None for process in processes):
            if is_kill_wanted():
                return True, False
            if time.monotonic() > limit_s:
                return False, not is_failing
            if not is_failing and any(process.poll() for process in processes):
                is_failing, limit_s = True, min(limit_s, time.monotonic() + self.grace_s)
            time.sleep(POLL_S)
        return False, False


def _found(name: str) -> str:
    """Return the path of a launcher: the one beside our own Python first."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _kill(processes: Sequence[subprocess.Popen[bytes]], *, marker: str) -> None:
    """Kill the processes, their groups, and whatever carries the trace folder in its environment.

    A launcher may put its ranks into sessions of their own, so that killing its group leaves them alive.
    """
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    wanted = f"SUPERBATCH_TRACE={marker}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)


def _output(folder: Path, num_processes: int, statuses: Sequence[int | None]) -> str:
    """Return the last lines of the first process that failed, else of the first one."""
    failed = [number for number in range(num_processes) if statuses[number] not in (0, -signal.SIGKILL)]
    number = failed[0] if failed else 0
    text = (folder / f"output-{number}.txt").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-OUTPUT_LINES:])
