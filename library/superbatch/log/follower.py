"""Follows a log and hands out its segments in order, whatever source it is read from."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from superbatch.formats.errors import CorruptFile, HistoryChanged, LogEnded
from superbatch.formats.manifest import Manifest, Revoked
from superbatch.formats.segments import Segment
from superbatch.log.source import LogSource

_SHORT_POLL_PAUSE_S = 0.2


class SegmentFollower:
    """Asks a source for what comes after a seq, and refuses a manifest of another job, history or dataset.

    Args:
        source: where the log is.
        job: id of the job.
        history_id: the history to stay on; None for whatever the first manifest says.
        sleep, clock: seconds, the clock monotonic.
    """

    def __init__(
        self,
        source: LogSource,
        job: str,
        *,
        history_id: str | None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._job = job
        self._history_id = history_id
        self._sleep = sleep
        self._clock = clock
        self._manifest: Manifest | None = None
        self._segments: deque[Segment] = deque()
        self._revoked: tuple[Revoked, ...] = ()

    def head(self, next_seq: int, *, hold: Callable[[], float]) -> Manifest:
        """Return the newest manifest seen; the first call asks for one, and waits only where no log has begun.

        Args:
            next_seq: from where on segments are wanted.
            hold: as in `next_segment`.
        """
        if self._manifest is None:
            self._take_up(next_seq, wait_s=0.0)
        while self._manifest is None:
            self._take_up(next_seq, wait_s=hold())
        return self._manifest

    def next_segment(self, next_seq: int, *, hold: Callable[[], float]) -> Segment | None:
        """Return the segment that holds batch `next_seq`, as soon as it is published; None after a whole job's last.

        Args:
            next_seq: the batch that is wanted.
            hold: called before each poll; returns for how many seconds the source may hold it back. It may wait itself,
                and what it raises ends the call.
        Raises:
            LogEnded: the job failed or was cancelled, and everything it published lies before next_seq.
            HistoryChanged: the log was begun anew, or next_seq lies beyond it.
            BehindRetention: the batch is gone.
            CorruptFile: a manifest that does not fit itself or the ones before.
            ServiceError, ServiceUnreachable: see LogSource.
        """
        while self._segments and self._segments[0].stop_seq <= next_seq:
            self._segments.popleft()
        while not self._segments:
            manifest = self._manifest
            if manifest is not None and manifest.end == "complete" and manifest.final_seq == next_seq:
                return None  # no later manifest can change that
            wait_s = hold()
            asked_s = self._clock()
            self._take_up(next_seq, wait_s=wait_s)
            manifest = self._manifest
            if self._segments:
                break
            if manifest is not None and manifest.end is not None and manifest.final_seq is not None:
                _check_end(manifest.end, manifest.final_seq, next_seq)
                return None
            logging.getLogger(__name__).info("waiting for batch %d of job %s", next_seq, self._job)
            if self._clock() - asked_s < wait_s / 2:  # a source that does not hold the poll back
                self._sleep(_SHORT_POLL_PAUSE_S)
        segment = self._segments[0]
        if not segment.first_seq <= next_seq < segment.stop_seq:
            raise CorruptFile(
                "segments must follow each other without a gap; "
                f"got batches {segment.first_seq} to {segment.stop_seq - 1} "
                f"where batch {next_seq} belongs (manifest of job {self._job}). "
                "Open the log again from the saved state."
            )
        return segment

    @property
    def dataset_fingerprint(self) -> str:
        """The fingerprint of the job's dataset, 64 hexadecimal digits, once a manifest was seen."""
        assert self._manifest is not None, "a segment came with a manifest"
        return self._manifest.dataset_fingerprint

    def revoked(self) -> tuple[Revoked, ...]:
        """Return the withdrawn batches that any manifest so far has named; one page names those near its batches."""
        return self._revoked

    def withdrawn(self, next_seq: int) -> tuple[Revoked, ...]:
        """Ask for all withdrawn batches from `next_seq` on, page by page; no segment is taken up.

        Raises:
            HistoryChanged, BehindRetention, CorruptFile, ServiceError, ServiceUnreachable: as `next_segment`.
        """
        seq, found = next_seq, dict[Revoked, None]()
        while (manifest := self._source.manifest(seq, history_id=self._history_id, wait_s=0.0)) is not None:
            self._check(manifest, seq)
            found |= dict.fromkeys(each for each in manifest.revoked if each.first_seq + each.num_batches > next_seq)
            if not manifest.segments or manifest.segments[-1].stop_seq <= seq:
                break
            seq = manifest.segments[-1].stop_seq
        return tuple(found)

    def _take_up(self, next_seq: int, *, wait_s: float) -> None:
        manifest = self._source.manifest(next_seq, history_id=self._history_id, wait_s=wait_s)
        if manifest is not None:
            self._check(manifest, next_seq)
            self._history_id = manifest.history_id
            self._revoked = tuple(dict.fromkeys((*self._revoked, *manifest.revoked)))
            self._segments = deque(segment for segment in manifest.segments if segment.stop_seq > next_seq)
            self._manifest = manifest

    def _check(self, manifest: Manifest, next_seq: int) -> None:
        history_id = self._history_id or manifest.history_id
        if manifest.job != self._job or manifest.history_id != history_id or manifest.next_seq < next_seq:
            raise HistoryChanged(
                f"a log can only go on in its own history; got job {manifest.job!r}, history "
                f"{manifest.history_id!r} with "
                f"{manifest.next_seq} batches, at batch {next_seq} of job {self._job!r}, history {history_id!r}. "
                "Start from a trainer checkpoint without a log state."
            )
        if self._manifest is not None and manifest.dataset_fingerprint != self._manifest.dataset_fingerprint:
            raise CorruptFile(
                f"the dataset of a job never changes; got another fingerprint (manifest of {self._job}). "
                "Open the log again from the saved state."
            )


def _check_end(end: str, final_seq: int, next_seq: int) -> None:
    if next_seq < final_seq:
        raise CorruptFile(
            f"a manifest must list what it has; it ended with {final_seq} batches but gave none from {next_seq} on. "
            "Open the log again from the saved state."
        )
    if end != "complete":
        raise LogEnded(end, final_seq)
