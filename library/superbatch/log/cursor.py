"""Where a reader stands in a log, and the chain of digests that proves it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from superbatch.formats.canonical import JsonObject
from superbatch.formats.digests import log_digest_start, next_log_digest
from superbatch.formats.errors import CorruptFile, DigestMismatch, HistoryChanged, InvalidInput
from superbatch.formats.json_fields import JsonFields
from superbatch.formats.segments import Segment

_MAX_KEPT_DIGESTS = 1 << 16
"""Digests that a report may name; a rank that never reports would else keep those of a whole month."""


class LogState(TypedDict):
    """All that a trainer saves to go on at the same batch, on any number of ranks; plain JSON."""

    job: str
    history_id: str
    next_seq: int
    log_digest: str


def checked_state(state: Mapping[str, object], *, job: str, history_id: str | None = None) -> LogState:
    """Return a saved state if it is whole and belongs to `job` and, where it is given, to `history_id`.

    Raises:
        InvalidInput: a field is missing or of another type.
        HistoryChanged: the state belongs to another job or history, or its digest is not that of an empty log at seq 0.
    """
    try:
        fields = JsonFields(cast("JsonObject", state), "saved state of the log")
        found = LogState(
            job=fields.text("job"),
            history_id=fields.text("history_id"),
            next_seq=fields.integer("next_seq"),
            log_digest=fields.sha256_hex("log_digest"),
        )
    except CorruptFile as error:
        raise InvalidInput(f"{error} Pass what BatchLog.state() returned.") from error
    if found["job"] != job:
        raise HistoryChanged(
            f"a state can only resume its own job; got one of job {found['job']!r} for job {job!r}. "
            "Open the log of that job, or start this one without a state."
        )
    if history_id not in (None, found["history_id"]):
        raise HistoryChanged(
            f"a state can only resume its own history; got {found['history_id']!r} where {history_id!r} is wanted. "
            "Start from a trainer checkpoint without a log state."
        )
    if found["next_seq"] == 0 and found["log_digest"] != log_digest_start(job, found["history_id"]).hex():
        raise HistoryChanged(f"the state at seq 0 must have the digest of an empty log; got {found['log_digest']}.")
    return found


class Cursor:
    """A position in one history of one job; moves over whole segments that prove themselves."""

    def __init__(self, state: LogState) -> None:
        self.job = state["job"]
        self.history_id = state["history_id"]
        self.start_seq = state["next_seq"]
        self.next_seq = state["next_seq"]
        # Of the last counts up to next_seq, that of next_seq at the right end.
        self._digests = deque([bytes.fromhex(state["log_digest"])], maxlen=_MAX_KEPT_DIGESTS)

    @classmethod
    def at_start(cls, job: str, history_id: str) -> Cursor:
        """Return a cursor before seq 0."""
        digest = log_digest_start(job, history_id).hex()
        return cls(LogState(job=job, history_id=history_id, next_seq=0, log_digest=digest))

    def state(self) -> LogState:
        """Return the state that resumes here."""
        return self.state_at(self.next_seq)

    def state_at(self, next_seq: int) -> LogState:
        """Return the state that resumes at `next_seq`.

        Raises:
            InvalidInput: as `digest_at`.
        """
        digest = self.digest_at(next_seq).hex()
        return LogState(job=self.job, history_id=self.history_id, next_seq=next_seq, log_digest=digest)

    def follow(self, segment: Segment, batch_digests: Sequence[bytes]) -> None:
        """Step over the rest of a segment if it continues this log.

        Args:
            segment: holds the batch at next_seq.
            batch_digests: digests of batches [next_seq, segment.stop_seq).
        Raises:
            DigestMismatch: the chain over these batches does not end in the segment's log digest.
        """
        digest = self._digests[-1]
        for batch_digest in batch_digests:
            digest = next_log_digest(digest, batch_digest)
        if digest.hex() != segment.log_digest_end:
            raise DigestMismatch(
                f"batches {self.next_seq} to {segment.stop_seq - 1} must continue the log; the chain ends in "
                f"{digest.hex()} instead of {segment.log_digest_end} (job {self.job}, history {self.history_id}). "
                "The list, the manifest or the saved state is not of this log: do not train on it."
            )
        self.next_seq = segment.stop_seq
        self._digests = deque([digest], maxlen=_MAX_KEPT_DIGESTS)

    def advance(self, batch_digest: bytes) -> bytes:
        """Step over the batch at next_seq and return the log digest after it."""
        digest = next_log_digest(self._digests[-1], batch_digest)
        self.next_seq += 1
        self._digests.append(digest)
        return digest

    def digest_at(self, seq: int) -> bytes:
        """Return the log digest after batch seq - 1.

        Raises:
            InvalidInput: a seq that was not reached, or that lies before what was reported as durable.
        """
        if not self.oldest_seq <= seq <= self.next_seq:
            kept = f"{self.oldest_seq} to {self.next_seq}"
            raise InvalidInput(
                f"a seq must be a count that this log has passed, {kept}; got {seq} (job {self.job}). "
                "Name batches that were handed out and not yet reported as durable."
            )
        return self._digests[seq - self.oldest_seq]

    def forget_before(self, seq: int) -> None:
        """Drop the digests before `seq`, which can no longer be gone back to."""
        while self.oldest_seq < min(seq, self.next_seq):
            self._digests.popleft()

    @property
    def oldest_seq(self) -> int:
        """The first count whose digest is kept: what was last reported as durable, or where the log was opened."""
        return self.next_seq - len(self._digests) + 1
