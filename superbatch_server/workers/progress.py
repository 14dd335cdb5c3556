"""What an attempt is doing, as its heartbeats tell it."""

from __future__ import annotations

from threading import Lock

from superbatch_server.schemas.attempts import Heartbeat
from superbatch_server.schemas.jobs import Phase


class Progress:
    """Phase and counters; any thread may set them.

    Counters: shards_done, shards_total, rows_indexed, rows_quarantined, rows_total, batches_composed,
    batches_published, batches_total; of shards that were read, not cached: rows_read, and the seconds of all workers
    together pass_read_s, pass_decode_s, pass_encode_s, pass_write_s.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._phase = Phase.STARTING
        self._counters: dict[str, int | float] = {}

    def enter(self, phase: Phase) -> None:
        """Set the phase."""
        with self._lock:
            self._phase = phase

    def note(self, **counters: float) -> None:
        """Set counters."""
        with self._lock:
            self._counters.update(counters)

    def heartbeat(self) -> Heartbeat:
        """Return the present state."""
        with self._lock:
            return Heartbeat(phase=self._phase, counters=dict(self._counters))
