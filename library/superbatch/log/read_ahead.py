"""Fetches and proves the next lists of a log in a thread of its own, while the trainer trains on the ones before."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.errors import InvalidInput, LogStalled
from superbatch.formats.segments import Segment
from superbatch.log.cursor import Cursor
from superbatch.log.follower import SegmentFollower

_IDLE_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Before the first, second, ... poll for one list while nobody waits."""
_CLOSING_S = 2.0
_LONGEST_SILENCE_S = 60.0
"""How long after the idle limit an answer of the source that is on its way is still waited for."""


class FetchList(Protocol):
    """Gives the list of a segment, proven by its sha256 and of the dataset with this fingerprint."""

    def __call__(self, segment: Segment, *, fingerprint: str) -> BatchListReader: ...


@dataclass(frozen=True, slots=True)
class ProvenList:
    """A segment and its list, which continues the log."""

    segment: Segment
    reader: BatchListReader


class ListReadAhead:
    """Hands out the lists of a log in order; what comes next is fetched and proven meanwhile.

    The thread starts with the first `take` and ends with the log, with an error, or with `close`. An error, like the
    end, has its place in the order: it is raised when the lists before it are used up, and the next `take` tries again
    from there. While somebody waits, the source may hold polls back; else it is asked rarely, and `close` need not
    wait for an answer.

    Args:
        follower: gives the segments.
        fetch: gives the list of a segment.
        wait_s: how long a poll may be held back.
        max_lists: lists kept ready, at least 1, beside the one in use.
        max_bytes: size of the lists kept ready; one is kept however large it is.
    """

    def __init__(
        self,
        follower: SegmentFollower,
        fetch: FetchList,
        *,
        wait_s: float,
        max_lists: int,
        max_bytes: int,
    ) -> None:
        self._follower = follower
        self._fetch = fetch
        self._wait_s = wait_s
        self._max_lists = max_lists
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._ready: deque[ProvenList | BaseException | None] = deque()
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._is_wanted = False
        self._is_closed = False
        self._is_asked = self._is_in_vain = False
        self._stop_s = math.inf
        self._process_id = os.getpid()

    def take(self, cursor: Cursor, *, idle_limit_s: float | None, keep_alive: Callable[[], float]) -> ProvenList | None:
        """Return the list that holds batch `cursor.next_seq`; None after a whole job's last.

        Args:
            cursor: the place in the log; the lists taken before end there.
            idle_limit_s: longest wait; None for no limit.
            keep_alive: called while waiting; returns the seconds until it must be called again, and may raise.
        Raises:
            LogStalled: the source was asked and the list did not come within idle_limit_s.
            InvalidInput: closed.
            LogError, CorruptFile: whatever kept the thread from getting this list.
        """
        self._want(cursor, idle_limit_s)
        try:
            self._await_list(cursor, keep_alive)
        finally:
            self._is_wanted = False
        with self._changed:
            found = self._ready.popleft()
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End the thread; one that waits for an answer of a source ends with that answer."""
        if self._process_id != os.getpid():  # a forked child has no such thread, and perhaps a lock that nobody opens
            return
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSING_S)

    def _want(self, cursor: Cursor, idle_limit_s: float | None) -> None:
        with self._changed:
            if self._is_closed:
                raise InvalidInput(
                    f"a log that was closed gives no batch; asked for {cursor.next_seq} (job {cursor.job}). "
                    "Open it again from the saved state."
                )
            self._is_wanted = not self._ready
            self._stop_s = math.inf if idle_limit_s is None else time.monotonic() + idle_limit_s
            self._is_asked = self._is_in_vain = False
            if self._is_wanted and not self._is_running:
                chain = Cursor(cursor.state())
                self._thread = threading.Thread(target=self._run, args=(chain,), name="superbatch-log", daemon=True)
                self._is_running = True
                self._thread.start()
            self._changed.notify_all()

    def _await_list(self, cursor: Cursor, keep_alive: Callable[[], float]) -> None:
        while not self._ready:
            left_s = self._stop_s - time.monotonic()
            left_s = left_s if left_s > 0 else left_s + _LONGEST_SILENCE_S
            left_s = min(keep_alive(), left_s, threading.TIMEOUT_MAX)
            with self._changed:
                self._changed.wait_for(lambda: bool(self._ready) or self._is_stalled(), max(0.0, left_s))
            if not self._ready and self._is_stalled():
                raise LogStalled(
                    f"a batch must come within the idle limit; batch {cursor.next_seq} of job {cursor.job} did not. "
                    "Look at the job's phase: it may wait for this trainer's progress, for a checkpoint or for a "
                    "machine."
                )

    def _is_stalled(self) -> bool:
        """Claim that the time is over, and the source was asked since somebody waits and had nothing, or is silent."""
        late_s = time.monotonic() - self._stop_s
        return late_s >= 0 and (self._is_in_vain or late_s >= _LONGEST_SILENCE_S)

    def _run(self, chain: Cursor) -> None:
        end: BaseException | None = None
        try:
            while (found := self._next(chain)) is not None:
                self._hand_over(found)
        except _ClosedMeanwhile:
            end = InvalidInput(f"the log was closed while batch {chain.next_seq} was waited for.")
        except BaseException as error:  # it belongs to whoever takes the batch at this place
            end = error
        self._hand_over(end, is_last=True)

    def _hand_over(self, found: ProvenList | BaseException | None, *, is_last: bool = False) -> None:
        with self._changed:
            self._ready.append(found)
            self._is_wanted = False
            self._is_running = not is_last
            self._changed.notify_all()

    def _next(self, chain: Cursor) -> ProvenList | None:
        pauses_s = itertools.chain(_IDLE_PAUSES_S, itertools.repeat(_IDLE_PAUSES_S[-1]))

        def hold() -> float:
            with self._changed:
                self._is_in_vain = self._is_in_vain or self._is_asked
                self._changed.notify_all()
                if not self._is_wanted:
                    self._changed.wait_for(lambda: self._is_wanted or self._is_closed, next(pauses_s))
                self._require_open()
                self._is_asked = self._is_wanted
                return min(self._wait_s, max(0.0, self._stop_s - time.monotonic())) if self._is_wanted else 0.0

        segment = self._follower.next_segment(chain.next_seq, hold=hold)
        if segment is None:
            return None
        self._await_room(segment.num_bytes)
        reader = self._fetch(segment, fingerprint=self._follower.dataset_fingerprint)
        rest = slice(chain.next_seq - reader.first_seq, segment.stop_seq - reader.first_seq)
        chain.follow(segment, reader.batch_digests[rest])
        return ProvenList(segment, reader)

    def _await_room(self, num_bytes: int) -> None:
        def has_room() -> bool:
            kept = [each.segment.num_bytes for each in self._ready if isinstance(each, ProvenList)]
            return not kept or (len(kept) < self._max_lists and sum(kept) + num_bytes <= self._max_bytes)

        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or has_room())
            self._require_open()

    def _require_open(self) -> None:
        if self._is_closed:
            raise _ClosedMeanwhile


class _ClosedMeanwhile(Exception):
    """The log was closed; the thread ends."""
