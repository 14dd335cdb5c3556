"""The batches of a log by their seq, for readers that begin anywhere and wait for what is not composed yet."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from superbatch.formats.errors import ServiceUnreachable, SuperbatchError
from superbatch.log import BatchLog, LogBatch, LogState

_log = logging.getLogger(__name__)

OpenLog = Callable[[LogState | None], BatchLog]


class NoSuchBatch(SuperbatchError):
    """The log lies elsewhere: it ended before this batch, or began after it."""

    code = "no_such_batch"


class ComposedBatches:
    """Keeps the newest batches of a log, and goes back for older ones; may be asked by many threads.

    A thread follows the log, at most `num_ahead` batches before the newest that was asked for.

    Args:
        open_log: opens the log at a state, or where reading begins for None.
        num_kept: batches in memory. It must be more than the ranks and workers of one trainer lie apart; fewer is slow,
            never wrong.
        num_ahead: batches read before they are asked for.
    """

    def __init__(self, open_log: OpenLog, *, num_kept: int = 64, num_ahead: int = 8) -> None:
        self._open_log = open_log
        self._num_kept, self._num_ahead = num_kept, num_ahead
        self._changed = threading.Condition()
        self._again = threading.Lock()
        self._kept: OrderedDict[int, LogBatch] = OrderedDict()
        self._log = open_log(None)
        start = self._log.state()
        self.job, self.history_id, self.first_seq = start["job"], start["history_id"], start["next_seq"]
        self._digests = [start["log_digest"]]
        self._wanted_seq = self.first_seq
        self._end: SuperbatchError | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._follow, name="superbatch-tars", daemon=True)
        self._thread.start()

    @property
    def next_seq(self) -> int:
        """The first batch that was not seen yet."""
        return self.first_seq + len(self._digests) - 1

    def get(self, seq: int, *, timeout_s: float) -> LogBatch | None:
        """Return batch `seq`, or None when it was not composed in time.

        Raises:
            NoSuchBatch: the job completed before it, or reading began after it.
            LogEnded, and the other errors of BatchLog: the log cannot go on.
        """
        if seq < self.first_seq:
            raise NoSuchBatch(f"reading began with batch {self.first_seq}; got {seq}. Start from an earlier state.")
        with self._changed:
            self._wanted_seq = max(self._wanted_seq, seq)
            self._changed.notify_all()
            self._changed.wait_for(lambda: seq < self.next_seq or self._end is not None, timeout_s)
            if found := self._kept.get(seq):
                return found
            if seq >= self.next_seq:
                if self._end is not None:
                    raise self._end
                return None
        return self._read_again(seq)

    def close(self) -> None:
        """Stop following the log."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._log.close()
        self._thread.join(timeout=30)

    def _follow(self) -> None:
        end: SuperbatchError | None = None
        while end is None and not self._is_closed:
            try:
                if self._take_all():
                    end = NoSuchBatch(f"the job is complete; it has {self.next_seq} batches.")
            except ServiceUnreachable as error:
                _log.warning("%s Trying again.", error)
                self._log.close()
                self._log = self._open_log(self._state_at(self.next_seq))
            except SuperbatchError as error:
                end = error
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _take_all(self) -> bool:
        """Take batches to the end of the log; True when it came to its end, False when closed before."""
        for batch in self._log:
            with self._changed:
                self._digests.append(batch.log_digest.hex())
                self._keep(batch)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closed or self.next_seq <= self._wanted_seq + self._num_ahead)
                if self._is_closed:
                    return False
        return True

    def _state_at(self, seq: int) -> LogState:
        digest = self._digests[seq - self.first_seq]
        return LogState(job=self.job, history_id=self.history_id, next_seq=seq, log_digest=digest)

    def _read_again(self, seq: int) -> LogBatch:
        """Return an older batch, and keep some that follow it: a trainer that went back will want them."""
        with self._again:
            with self._changed:
                if found := self._kept.get(seq):
                    return found
                num_there = min(self._num_kept // 2 + 1, self.next_seq - seq)
            with self._open_log(self._state_at(seq)) as log:
                batches = [next(log) for _ in range(num_there)]
            with self._changed:
                for batch in reversed(batches):
                    self._keep(batch)
            return batches[0]

    def _keep(self, batch: LogBatch) -> None:
        self._kept[batch.seq] = batch
        self._kept.move_to_end(batch.seq)
        while len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)
