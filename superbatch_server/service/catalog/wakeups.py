"""Who waits for a job to change sleeps here until somebody who changed it rings.

It is only a wake-up and carries no news: whoever waits reads the catalog again, and looks at least every `LOOK_S`
without being rung, because a ring may be lost and another process may have nobody to ring for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator

LOOK_S = 1.0
"""Seconds after which a waiter looks for itself."""

QUEUE = "queue"
"""The name under which whoever looks for work to start is rung; no job is called so."""

Hear = Callable[[str], None]


class Wakeups:
    """Rings of one process, by job. Every method may be called from any thread and any event loop."""

    def __init__(self) -> None:
        self.origin = secrets.token_hex(8)
        """Which process rang, so that one does not hear its own rings twice."""
        self._lock = threading.Lock()
        self._rings: dict[str, int] = {}
        self._waiting: dict[str, set[_Waiter]] = {}
        self._hearing: list[Hear] = []

    def ring(self, job_id: str) -> None:
        """Wake all who wait for a job; called after the commit that changed it."""
        with self._lock:
            self._rings[job_id] = self._rings.get(job_id, 0) + 1
            waiting = self._waiting.pop(job_id, set())
            hearing = list(self._hearing)
        for waiter in waiting:
            waiter.wake()
        for hear in hearing:
            hear(job_id)

    def seen(self, job_id: str) -> int:
        """Return how often a job was rung; read it before the catalog, and hand it to `wait` after."""
        with self._lock:
            return self._rings.get(job_id, 0)

    async def wait(self, job_id: str, seen: int, timeout_s: float) -> int:
        """Sleep until a job is rung for the first time after `seen`, or `timeout_s`; return what `seen` is now."""
        waiter = _Waiter()
        with self._lock:
            if self._rings.get(job_id, 0) != seen:
                return self._rings[job_id]
            self._waiting.setdefault(job_id, set()).add(waiter)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter.woken.wait()
        finally:
            self._forget(job_id, waiter)
        return self.seen(job_id)

    @contextlib.contextmanager
    def heard_by(self, hear: Hear) -> Iterator[None]:
        """Call `hear` with the name of every ring, in the thread that rings; it must return at once."""
        with self._lock:
            self._hearing.append(hear)
        try:
            yield
        finally:
            with self._lock:
                self._hearing.remove(hear)

    def _forget(self, job_id: str, waiter: _Waiter) -> None:
        with self._lock:
            waiting = self._waiting.get(job_id, set())
            waiting.discard(waiter)
            if not waiting:
                self._waiting.pop(job_id, None)


class _Waiter:
    """One sleeper on its own event loop."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended, and with it the sleeper
            self._loop.call_soon_threadsafe(self.woken.set)
