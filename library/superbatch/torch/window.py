"""The batches between the one being trained and the last one asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from superbatch.log import LogBatch


class BatchWindow:
    """Batches of a log from the first untrained one on, each kept until it is trained or skipped.

    A loader that is started again goes over the kept ones first, so nothing that was read ahead is lost.

    Args:
        log: the batches in order.
    """

    def __init__(self, log: Iterator[LogBatch]) -> None:
        self._log = log
        self._kept: deque[LogBatch] = deque()
        self._has_ended = False
        self._error: Exception | None = None

    def first(self) -> LogBatch | None:
        """Return the first untrained batch, as soon as it is there; None at the end of the log."""
        return self._kept[0] if self._kept else self._next()

    def from_seq(self, seq: int) -> LogBatch | None:
        """Return the first untrained batch at `seq` or later, as soon as it is there; None where there is none.

        An error of the log is kept for `raise_error`: whoever asks is ahead of the training, and the batches in between
        are still good.
        """
        kept = next((batch for batch in self._kept if batch.seq >= seq), None)
        if kept is not None:
            return kept
        self._error = None
        try:
            return self._next()
        except Exception as error:  # whatever it is, it belongs after the batches that are there
            self._error = error
            return None

    def raise_error(self) -> None:
        """Raise what kept `from_seq` from its last answer; nothing where the log had just ended."""
        if self._error is not None:
            raise self._error

    def drop_first(self) -> None:
        """Forget the first untrained batch: it is trained, or skipped."""
        self._kept.popleft()

    @property
    def last_seq(self) -> int | None:
        """The last batch asked for that is not trained; None where there is none."""
        return self._kept[-1].seq if self._kept else None

    @property
    def is_finished(self) -> bool:
        """Claim that the log has ended, and that every batch of it is trained."""
        return self._has_ended and not self._kept

    def _next(self) -> LogBatch | None:
        batch = None if self._has_ended else next(self._log, None)
        if batch is None:
            self._has_ended = True
        else:
            self._kept.append(batch)
        return batch
