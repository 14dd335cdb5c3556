"""One submission, watched from a thread of its own, so that a slow cluster never holds up the supervisor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from superbatch_server.service.runners.ray_api import RayAway, RayJobsApi, RayRefused

log = logging.getLogger("superbatch.supervisor")

LOST = "runner lost"

_POLL_S = 1.0
_DESTROY_LIMIT_S = 8.0  # Ray kills three seconds after it asked
_LOG_S = 2.0
_LOG_S_PER_BYTE = 1 / (256 << 10)
"""Ray hands out a log whole: a second more between two looks for each 256 KiB keeps that cheap."""


class RayRun:
    """Submits, watches, copies the log; implements `Run`."""

    pid: int | None = None

    def __init__(
        self,
        api: RayJobsApi,
        name: str,
        *,
        body: Mapping[str, Any],
        log_path: Path,
        patience_s: float,
        poll_s: float = _POLL_S,
    ) -> None:
        self._api, self._name, self._body = api, name, body
        self._patience_s, self._poll_s = patience_s, poll_s
        self._log = RayLog(api, name, log_path)
        self._outcome: str | None = None
        self._seen = monotonic()
        self._stop_asked, self._abandoned, self._woken = Event(), Event(), Event()
        self.is_destroyed = False
        self._thread = Thread(target=self._live, name=f"ray-{name}", daemon=True)
        self._thread.start()

    def outcome(self) -> str | None:
        """Return how the submission ended, None while it is under way."""
        return self._outcome

    def terminate(self) -> None:
        """Ask the cluster to stop it; asked again until it has an outcome."""
        self._stop_asked.set()
        self._woken.set()

    def destroy(self) -> None:
        """Stop it, wait for its end, and make the cluster forget it; a cluster that is away is left to the sweep."""
        if self._outcome is None:
            self.terminate()
            self._thread.join(_DESTROY_LIMIT_S)
        self._abandoned.set()
        self._woken.set()
        self._outcome = self._outcome or LOST
        self.is_destroyed = True
        try:
            self._api.delete(self._name)
        except (RayAway, RayRefused) as error:
            log.info("submission %s could not be deleted and is left to the sweep: %s", self._name, error)

    def _live(self) -> None:
        outcome = self._submit()
        while outcome is None and not self._abandoned.is_set():
            self._woken.wait(self._poll_s)
            self._woken.clear()
            outcome = self._look()
        if outcome is not None and not outcome.startswith(LOST):
            self._log.copy(final=True)
        self._outcome = self._outcome or outcome

    def _submit(self) -> str | None:
        """Submit until the cluster has it; return an outcome when that cannot be."""
        while not self._stop_asked.is_set():
            try:
                self._api.submit(self._body)
                self._seen = monotonic()
                return None
            except RayRefused as error:
                return f"refused by the cluster: {error}"
            except RayAway as error:
                # Also the answer to a repeated request whose first answer was lost.
                if self._is_known():
                    return None
                log.info("submission %s: %s; tried again", self._name, error)
                if monotonic() - self._seen > self._patience_s:
                    return f"{LOST}: {error}"
            self._woken.wait(self._poll_s)
        # A request without an answer may have arrived; where none did there is nothing to stop.
        return None if self._is_known() else "stopped before it began"

    def _is_known(self) -> bool:
        try:
            known = self._api.find(self._name) is not None
        except (RayAway, RayRefused):
            return False
        if known:
            self._seen = monotonic()
        return known

    def _look(self) -> str | None:
        try:
            if self._stop_asked.is_set():
                self._api.stop(self._name)
            found = self._api.find(self._name)
        except (RayAway, RayRefused) as error:
            if monotonic() - self._seen <= self._patience_s:
                return None
            return f"{LOST}: no answer for {self._patience_s:g} s ({error})"
        self._seen = monotonic()
        if found is None:
            return f"{LOST}: the cluster does not know it any more"
        self._log.copy()
        return found.said() if found.is_terminal else None


class RayLog:
    """Copies a submission's log into a file, by what was added since the last look."""

    def __init__(self, api: RayJobsApi, name: str, path: Path) -> None:
        self._api, self._name, self._path = api, name, path
        self._copied_bytes, self._next_at = 0, 0.0

    def copy(self, *, final: bool = False) -> None:
        """Append what is new, unless the last look was a moment ago. A log is worth no failure."""
        if not final and monotonic() < self._next_at:
            return
        try:
            data = self._api.logs(self._name).encode()
            self._append(data[self._copied_bytes :])
            self._copied_bytes = max(self._copied_bytes, len(data))
        except (RayAway, RayRefused, OSError) as error:
            log.info("log of submission %s: %s", self._name, error)
        self._next_at = monotonic() + _LOG_S + self._copied_bytes * _LOG_S_PER_BYTE

    def _append(self, data: bytes) -> None:
        if data:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(data)
