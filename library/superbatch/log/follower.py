"""Follows the manifest of a job by long poll and hands out its segments in order."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

from superbatch.formats.errors import (
    BehindRetention,
    CorruptFile,
    HistoryChanged,
    LogEnded,
    LogStalled,
)
from superbatch.formats.manifest import Manifest
from superbatch.formats.segments import Segment
from superbatch.log.service_client import Answer, ServiceClient

_LONGEST_MANIFEST_BYTES = 1 << 20  # the contract allows 64 KiB a page
_SHORT_POLL_PAUSE_S = 0.2


class ManifestFollower:
    """Asks for what comes after a seq, and refuses a manifest of another job, history or dataset.

    Args:
        client: the service.
        job: id of the job.
        history_id: the history to stay on; None for whatever the first manifest says.
        wait_s: how long the service may hold a poll back.
        idle_limit_s: longest time without a new batch; None for no limit.
        sleep, clock: seconds, the clock monotonic.
        keep_alive: called before each poll of a wait; returns the seconds after which it must be called again.
    """

    def __init__(
        self,
        client: ServiceClient,
        job: str,
        *,
        history_id: str | None,
        wait_s: float,
        idle_limit_s: float | None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        keep_alive: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.link = f"v1/jobs/{job}/manifest"
        self._client = client
        self._job = job
        self._history_id = history_id
        self._wait_s = wait_s
        self._idle_limit_s = idle_limit_s
        self._sleep = sleep
        self._clock = clock
        self._keep_alive = keep_alive
        self._manifest: Manifest | None = None
        self._segments: deque[Segment] = deque()
        self._etag: tuple[int, str] | None = None

    def head(self, next_seq: int) -> Manifest:
        """Return the newest manifest seen; the first call asks for one without waiting."""
        return self._manifest or self._poll(next_seq, wait_s=0)

    def next_segment(self, next_seq: int) -> Segment | None:
        """Return the segment that holds batch `next_seq`, as soon as it is published; None after a whole job's last.

        Raises:
            LogEnded: the job failed or was cancelled, and everything it published lies before next_seq.
            LogStalled: nothing came within idle_limit_s.
            HistoryChanged: the log was begun anew, or next_seq lies beyond it.
            BehindRetention: the batch is gone.
            CorruptFile: a manifest that does not fit itself or the ones before.
            ServiceError, ServiceUnreachable: see ServiceClient.
        """
        began_s = self._clock()
        while self._segments and self._segments[0].stop_seq <= next_seq:
            self._segments.popleft()
        while not self._segments:
            if self._is_complete_at(next_seq):
                return None
            wait_s = max(0.0, min(self._wait_s, self._keep_alive()))
            asked_s = self._clock()
            manifest = self._poll(next_seq, wait_s=wait_s)
            if self._segments:
                break
            if manifest.end is not None and manifest.final_seq is not None:
                _check_end(manifest.end, manifest.final_seq, next_seq)
                return None
            now_s = self._clock()
            if self._idle_limit_s is not None and now_s - began_s > self._idle_limit_s:
                raise LogStalled(
                    f"a batch must come within {self._idle_limit_s:g} s; batch {next_seq} of job {self._job} did not. "
                    "Look at the job's phase: it may wait for this trainer's progress, for a checkpoint or "
                    "for a machine."
                )
            logging.getLogger(__name__).info(
                "waiting for batch %d of job %s since %.0f s", next_seq, self._job, now_s - began_s
            )
            if now_s - asked_s < wait_s / 2:  # a service that does not hold the poll back
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

    def revoked_reason(self, seq: int) -> str | None:
        """Return why a published batch was withdrawn, or None, as the newest manifest says."""
        revoked = () if self._manifest is None else self._manifest.revoked
        return next((each.reason for each in revoked if 0 <= seq - each.first_seq < each.num_batches), None)

    def _is_complete_at(self, next_seq: int) -> bool:
        """Claim that the job completed and next_seq is its end; no later manifest can change that."""
        manifest = self._manifest
        return manifest is not None and manifest.end == "complete" and manifest.final_seq == next_seq

    def _poll(self, next_seq: int, *, wait_s: float) -> Manifest:
        params: dict[str, str | int | float] = {"after": next_seq, "wait": wait_s}
        if self._history_id is not None:
            params["history"] = self._history_id
        headers = {"If-None-Match": self._etag[1]} if self._etag is not None and self._etag[0] == next_seq else {}
        answer = self._client.get(
            self.link,
            params=params,
            headers=headers,
            accepted=(200, 304, 409, 410),
            wait_s=wait_s,
            max_bytes=_LONGEST_MANIFEST_BYTES,
        )
        if answer.status == 304 and self._manifest is not None:
            return self._manifest
        if answer.status != 200:
            raise self._refusal(answer, next_seq)
        self._etag = None if answer.etag is None else (next_seq, answer.etag)
        return self._taken(Manifest.from_json(answer.content, where=f"manifest of job {self._job}"), next_seq)

    def _refusal(self, answer: Answer, next_seq: int) -> Exception:
        if answer.status == 409:
            return HistoryChanged(f"the service has another log of job {self._job}: {answer.error()}")
        if answer.status == 410:
            oldest_seq = answer.problem().get("oldest_seq")
            return BehindRetention(next_seq, oldest_seq if isinstance(oldest_seq, int) else None)
        return answer.error()

    def _taken(self, manifest: Manifest, next_seq: int) -> Manifest:
        history_id = self._history_id or manifest.history_id
        if manifest.job != self._job or manifest.history_id != history_id or manifest.next_seq < next_seq:
            raise HistoryChanged(
                f"a log can only go on in its own history; got job {manifest.job!r}, history "
                f"{manifest.history_id!r} with "
                f"{manifest.next_seq} batches, at batch {next_seq} of job {self._job!r}, history {history_id!r}. "
                "Start from a trainer checkpoint without a log state."
            )
        if self._manifest is not None and manifest.dataset_fingerprint != self._manifest.dataset_fingerprint:
            raise CorruptFile(f"the dataset of a job never changes; got another fingerprint (manifest of {self._job}).")
        self._history_id = history_id
        self._manifest = manifest
        self._segments = deque(segment for segment in manifest.segments if segment.stop_seq > next_seq)
        return manifest


def _check_end(end: str, final_seq: int, next_seq: int) -> None:
    if next_seq < final_seq:
        raise CorruptFile(
            f"a manifest must list what it has; it ended with {final_seq} batches but gave none from {next_seq} on. "
            "Open the log again from the saved state."
        )
    if end != "complete":
        raise LogEnded(end, final_seq)
