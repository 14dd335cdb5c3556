"""A process that ends when its parent does, also when the parent gets SIGKILL.

As a program with the arguments <parent pid> <command...> it becomes the command, on the leash.
Linux sends SIGTERM by itself (PR_SET_PDEATHSIG survives exec); elsewhere the command has to watch its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_WATCH_S = 0.5


def tie_to_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGTERM at the parent's death; exit if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(f"the parent of a leashed process must be alive; process {parent_pid} is gone")


def watch_parent(parent_pid: int) -> None:
    """Send this process SIGTERM when its parent is gone, on every platform."""
    tie_to_parent(parent_pid)
    threading.Thread(target=_watch, args=(parent_pid,), name="parent-watch", daemon=True).start()


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    tie_to_parent(int(sys.argv[1]))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"a command must be a program that can be run; got {sys.argv[2]!r}: {error.strerror}. Check its path.")
