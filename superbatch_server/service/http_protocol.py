"""Uvicorn's HTTP/1.1, less patient: who opens a connection must send the head of a request within `HEAD_S`.

Uvicorn limits the time between two requests, but not that of a request's head, so that a few clients who send a byte
now and then (slow loris) would hold every connection that `max_connections` allows. Bodies are timed by BodyLimit.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0
KEEP_ALIVE_S = 75
"""Longer than the pause between two requests of a poller or of a proxy in front of us."""

MAX_HEAD_BYTES = 32 << 10


class TimedProtocol(H11Protocol):
    """Closes a connection whose next request's head is not whole in time."""

    head_s = HEAD_S
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to count."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Stop counting when a request is under way; begin again with the first byte of the next one."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._deadline is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self.head_s, self._close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        self.transport.close()
