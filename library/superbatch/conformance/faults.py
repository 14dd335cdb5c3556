"""What can go wrong between a job and a loader, and how to make it happen to a sample job."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from superbatch.conformance.sample_job import SampleJob


class Fault(StrEnum):
    """A fault; its group says what a loader must make of it."""

    NONE = "none"
    SLOW_SERVER = "slow_server"
    BUSY_SERVER = "busy_server"
    RESTARTED_SERVER = "restarted_server"
    MISSING_SHARD = "missing_shard"
    DAMAGED_LIST = "damaged_list"
    REWOUND_TRAINER = "rewound_trainer"
    CORRUPT_PICTURE = "corrupt_picture"
    LOST_SHARD = "lost_shard"
    LOST_LIST = "lost_list"
    WITHDRAWN_BATCH = "withdrawn_batch"
    OTHER_JOB = "other_job"
    OTHER_HISTORY = "other_history"
    BEHIND_RETENTION = "behind_retention"
    WORLD_SIZE = "world_size"

    @property
    def meaning(self) -> str:
        """Return what happens, in one clause."""
        return _MEANINGS[self]

    @property
    def is_stopping(self) -> bool:
        """Claim that no rank may train the batch that it hits: the loader raises, or skips it on all ranks."""
        return self in _STOPPING

    @property
    def is_refused(self) -> bool:
        """Claim that the loader must raise before it trains a step."""
        return self in _REFUSED

    def stops_at(self, job: SampleJob) -> int:
        """Return the first batch that the fault hits; of those that are not stopping, the end of the log."""
        if self is Fault.CORRUPT_PICTURE:
            return job.fragile_seq
        if self is Fault.LOST_LIST:
            return next(each.first_seq for each in job.segments if job.late_seq < each.stop_seq)
        if self.is_stopping:
            return job.late_seq
        return len(job.batches)


_STOPPING = frozenset({Fault.CORRUPT_PICTURE, Fault.LOST_SHARD, Fault.LOST_LIST, Fault.WITHDRAWN_BATCH})
_REFUSED = frozenset({Fault.OTHER_JOB, Fault.OTHER_HISTORY, Fault.BEHIND_RETENTION, Fault.WORLD_SIZE})
_MEANINGS = {
    Fault.NONE: "nothing goes wrong",
    Fault.SLOW_SERVER: "every answer takes a quarter of a second",
    Fault.BUSY_SERVER: "every fourth request is answered 503",
    Fault.RESTARTED_SERVER: "the server is killed in the middle of a poll and comes back on the same port",
    Fault.MISSING_SHARD: "a shard is missing and comes back within a second",
    Fault.DAMAGED_LIST: "each batch list arrives damaged at first",
    Fault.REWOUND_TRAINER: "the trainer goes back to a checkpoint from before its last one",
    Fault.CORRUPT_PICTURE: "a picture no longer has the bytes that were selected",
    Fault.LOST_SHARD: "a shard is missing for good",
    Fault.LOST_LIST: "a batch list is damaged for good",
    Fault.WITHDRAWN_BATCH: "a published batch is withdrawn",
    Fault.OTHER_JOB: "the saved state is of another job",
    Fault.OTHER_HISTORY: "the log was begun anew under another history",
    Fault.BEHIND_RETENTION: "the saved state lies before the oldest batch that is kept",
    Fault.WORLD_SIZE: "the batch size is not divisible by the world size",
}

RESTORED_AFTER_S = 0.8
"""A missing shard comes back so long after the list that needs it was fetched; ExampleReader tries for 2.1 s."""


@dataclass
class ServerFaults:
    """How the server of a sample job misbehaves.

    delay_s: before each answer. busy_every: every so many-th request is answered 503; 0 = none.
    damaged_lists: the first so many answers with a list that reaches beyond seq `damaged_from` are damaged, per list.
    restart_at_seq: nothing from here on is published until the server was killed and is back; None for no restart.
    revoked_seq: batch that the manifest withdraws. oldest_seq: as the manifest says.
    """

    delay_s: float = 0.0
    busy_every: int = 0
    damaged_lists: int = 0
    damaged_from: int = 0
    restart_at_seq: int | None = None
    revoked_seq: int | None = None
    oldest_seq: int = 0


def server_faults(fault: Fault, job: SampleJob) -> ServerFaults:
    """Return what the server does while a fault lasts."""
    match fault:
        case Fault.SLOW_SERVER:
            return ServerFaults(delay_s=0.25)
        case Fault.BUSY_SERVER:
            return ServerFaults(busy_every=4)
        case Fault.RESTARTED_SERVER:
            return ServerFaults(restart_at_seq=job.late_seq)
        case Fault.DAMAGED_LIST:
            return ServerFaults(damaged_lists=2)
        case Fault.LOST_LIST:
            return ServerFaults(damaged_lists=1 << 30, damaged_from=job.late_seq)
        case Fault.WITHDRAWN_BATCH:
            return ServerFaults(revoked_seq=job.late_seq)
        case Fault.BEHIND_RETENTION:
            return ServerFaults(oldest_seq=job.late_seq)
        case _:
            return ServerFaults()


class BrokenFiles:
    """Breaks the files of a sample job as a fault says, and mends them; as a context, mends at its end."""

    def __init__(self, job: SampleJob, fault: Fault) -> None:
        self._job = job
        self._fault = fault
        self._late, self._hidden = job.late_shard(), job.late_shard().with_suffix(".hidden")
        self._shard, self._offset, length = job.fragile_bytes()
        with self._shard.open("rb") as file:
            file.seek(self._offset)
            self._picture = file.read(length)

    def __enter__(self) -> BrokenFiles:
        if self._fault is Fault.CORRUPT_PICTURE:
            self._overwrite(b"\0" * len(self._picture))
        elif self._fault in (Fault.MISSING_SHARD, Fault.LOST_SHARD):
            self._late.rename(self._hidden)
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()

    def mend(self) -> None:
        """Put everything back as it was; may be called again."""
        if self._fault is Fault.CORRUPT_PICTURE:
            self._overwrite(self._picture)
        elif self._hidden.exists():
            self._hidden.rename(self._late)

    def _overwrite(self, content: bytes) -> None:
        descriptor = os.open(self._shard, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content, self._offset)
        finally:
            os.close(descriptor)
