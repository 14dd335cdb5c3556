"""The lease: renewed from a thread of its own, and the end of the process when it is lost."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import NoReturn, Protocol

import psutil  # type: ignore[import-untyped]

from superbatch.formats.errors import ServiceError, ServiceUnreachable
from superbatch_server.schemas.attempts import Heartbeat, HeartbeatAnswer
from superbatch_server.schemas.errors import LeaseLost

EXIT_LEASE_LOST = 75
_WATCH_S = 0.5
_GONE_S = 3.0

log = logging.getLogger(__name__)


class HeartbeatService(Protocol):
    """Renews a lease."""

    def heartbeat(self, beat: Heartbeat, *, timeout_s: float) -> HeartbeatAnswer:
        """Renew the lease, or raise LeaseLost."""
        ...


class LeaseThread(Thread):
    """Beats every `heartbeat_s`. Calls `on_cancel` once, `on_lost` when lease or supervisor are gone."""

    def __init__(
        self,
        service: HeartbeatService,
        *,
        beat: Callable[[], Heartbeat],
        heartbeat_s: float,
        lease_s: float,
        on_cancel: Callable[[], None],
        on_lost: Callable[[str], None],
        parent_pid: Callable[[], int] = os.getppid,
    ) -> None:
        super().__init__(name="lease", daemon=True)
        self._service, self._beat = service, beat
        self._heartbeat_s, self._lease_s = heartbeat_s, lease_s
        self._on_cancel, self._on_lost = on_cancel, on_lost
        self._parent_pid, self._parent = parent_pid, parent_pid()
        self._stopped = Event()
        self._is_cancelled = False

    def run(self) -> None:
        """Beat until stopped."""
        renewed = next_beat = monotonic()
        while not self._stopped.is_set():
            now = monotonic()
            if self._parent_pid() != self._parent:
                return self._on_lost("the supervisor is gone")
            if now - renewed > self._lease_s:
                return self._on_lost(f"the lease was not renewed for {self._lease_s} s")
            if now >= next_beat:
                next_beat = now + self._heartbeat_s
                try:
                    answer = self._service.heartbeat(self._beat(), timeout_s=max(self._lease_s / 3, 0.1))
                except LeaseLost as error:
                    if self._stopped.is_set():  # given back meanwhile
                        return None
                    return self._on_lost(str(error))
                except (ServiceUnreachable, ServiceError) as error:
                    log.warning("heartbeat: %s", error)
                    next_beat = now + min(self._heartbeat_s, _WATCH_S)
                else:
                    # from before the call: the service counted from some moment after it
                    renewed = now
                    if answer.cancel and not self._is_cancelled:
                        self._is_cancelled = True
                        self._on_cancel()
            self._stopped.wait(min(_WATCH_S, self._heartbeat_s / 2))
        return None

    def stop(self) -> None:
        """End the thread; call it before the lease is given back."""
        self._stopped.set()


def die(reason: str, *, clean_up: Callable[[], None] | None = None) -> NoReturn:
    """End this process and all that it started, at once: whoever holds the job now must not meet our workers."""
    log.error("this attempt ends at once: %s", reason)
    kill_descendants()
    if clean_up is not None:
        clean_up()
    os._exit(EXIT_LEASE_LOST)


def kill_descendants() -> None:
    """Kill every process below this one, and wait a moment for them to be gone: they write into our folders."""
    with suppress(psutil.Error):
        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.Error):
                child.send_signal(signal.SIGKILL)
        psutil.wait_procs(children, timeout=_GONE_S)
