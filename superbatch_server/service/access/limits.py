"""How much one credential may ask for at a time, and how many requests may wait together.

A bucket of tokens per credential bounds its rate; counters bound what is under way: requests of one credential, waiting
requests (long polls) and streams of all, of which one credential gets a quarter. Whoever has no credential is known by
the address. Nothing here is kept over a restart: these limits protect the service from a loop gone wild, they are no
quota.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from superbatch_server.schemas.errors import TooManyRequests

MAX_REMEMBERED = 4096
_BURST_S = 2.0


@dataclass(frozen=True)
class Bounds:
    """The settings of the limits."""

    requests_per_s: float
    max_requests: int
    max_waiting: int
    max_streams: int


@dataclass
class _Asker:
    """What is known of one credential: tokens left in its bucket, and requests under way."""

    tokens: float
    filled_s: float
    under_way: int = 0
    waiting: int = 0
    streams: int = 0

    @property
    def is_busy(self) -> bool:
        """Claim that something of theirs is under way."""
        return self.under_way + self.waiting + self.streams > 0


@dataclass
class Limits:
    """Counts requests; every method may be called from any thread."""

    bounds: Bounds
    clock: Callable[[], float] = time.monotonic
    waiting: int = 0
    streams: int = 0
    _askers: dict[str, _Asker] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def request(self, asker: str) -> Iterator[None]:
        """Let a request of a credential be under way, or raise TooManyRequests."""
        with self._lock:
            found = self._asker(asker)
            self._take(found, asker)
            found.under_way += 1
        try:
            yield
        finally:
            with self._lock:
                found.under_way -= 1

    @contextmanager
    def waiter(self, asker: str) -> Iterator[None]:
        """Let a long poll of a credential wait, or raise TooManyRequests."""
        with self._lock:
            found, limit = self._asker(asker), self.bounds.max_waiting
            _require(self.waiting, limit, "requests may wait", "max_waiting")
            _require(found.waiting, _share(limit), f"requests of {asker} may wait", "max_waiting")
            self.waiting, found.waiting = self.waiting + 1, found.waiting + 1
        try:
            yield
        finally:
            with self._lock:
                self.waiting, found.waiting = self.waiting - 1, found.waiting - 1

    @contextmanager
    def stream(self, asker: str) -> Iterator[None]:
        """Let a stream of events of a credential be open, or raise TooManyRequests."""
        with self._lock:
            found, limit = self._asker(asker), self.bounds.max_streams
            _require(self.streams, limit, "streams may be open", "max_streams")
            _require(found.streams, _share(limit), f"streams of {asker} may be open", "max_streams")
            self.streams, found.streams = self.streams + 1, found.streams + 1
        try:
            yield
        finally:
            with self._lock:
                self.streams, found.streams = self.streams - 1, found.streams - 1

    def _asker(self, name: str) -> _Asker:
        found = self._askers.get(name)
        if found is None:
            if len(self._askers) >= MAX_REMEMBERED:
                self._forget_idle()
            found = self._askers[name] = _Asker(self._burst, self.clock())
        return found

    def _take(self, asker: _Asker, name: str) -> None:
        _require(asker.under_way, self.bounds.max_requests, f"requests of {name} may be under way", "max_requests")
        now_s = self.clock()
        refilled = asker.tokens + (now_s - asker.filled_s) * self.bounds.requests_per_s
        asker.tokens, asker.filled_s = min(refilled, self._burst), now_s
        if asker.tokens < 1:
            raise TooManyRequests(
                f"a credential may send {self.bounds.requests_per_s:g} requests a second; got more (credential {name}, "
                "setting requests_per_s). Wait a second, then send fewer."
            )
        asker.tokens -= 1

    @property
    def _burst(self) -> float:
        return max(1.0, self.bounds.requests_per_s * _BURST_S)

    def _forget_idle(self) -> None:
        """Forget whoever has nothing under way; a bucket that was not full yet is given away."""
        self._askers = {name: asker for name, asker in self._askers.items() if asker.is_busy}


def _share(limit: int) -> int:
    """Return how much of what all may have is for one credential."""
    return max(1, limit // 4)


def _require(count: int, limit: int, what: str, setting: str) -> None:
    if count >= limit:
        raise TooManyRequests(
            f"at most {limit} {what} at the same time; got one more (setting {setting}). "
            "Try again after a moment, with fewer connections."
        )
