"""The family of errors that Superbatch raises.

SuperbatchError
├── InvalidInput (also a ValueError)
├── CorruptFile
│   ├── NotATar
│   ├── DigestMismatch
│   └── UnsupportedVersion
├── ShardChanged
├── UnreadableExample
└── LogError
    ├── ServiceError
    ├── ServiceUnreachable
    ├── HistoryChanged
    ├── BehindRetention
    ├── LogEnded
    ├── LogStalled
    └── RevokedBatch

Each part of the library hangs its own errors below these. A message is *rule; got value; where; what to do*.
All of them survive pickling, because loaders raise them in worker processes.
"""

from __future__ import annotations

from typing import ClassVar


class SuperbatchError(Exception):
    """Something that Superbatch itself refuses or cannot do; `code` is stable and may be matched on."""

    code: ClassVar[str] = "superbatch_error"


class InvalidInput(SuperbatchError, ValueError):
    """The caller gave a value outside the rule that the message states."""

    code: ClassVar[str] = "invalid_input"


class CorruptFile(SuperbatchError):
    """A file or document does not have the form that its format fixes: cut off, damaged, or made by another program."""

    code: ClassVar[str] = "corrupt_file"


class NotATar(CorruptFile):
    """A shard that should be a tar does not begin like one: empty, compressed, or something else."""

    code: ClassVar[str] = "not_a_tar"


class DigestMismatch(CorruptFile):
    """Bytes do not have the digest under which they were published."""

    code: ClassVar[str] = "digest_mismatch"


class UnsupportedVersion(CorruptFile):
    """The file was written under a newer major version of its format than this reader knows."""

    code: ClassVar[str] = "unsupported_version"


class ShardChanged(SuperbatchError):
    """A shard is not the one that was registered: its fingerprint differs."""

    code: ClassVar[str] = "shard_changed"


class UnreadableExample(SuperbatchError):
    """The bytes of a published row could not be read after all retries; no row is ever dropped instead."""

    code: ClassVar[str] = "unreadable_example"


class LogError(SuperbatchError):
    """A batch log cannot go on."""

    code: ClassVar[str] = "log_error"


class ServiceError(LogError):
    """The service refused a request; `problem_code` is the stable code of its answer (RFC 9457 body)."""

    code: ClassVar[str] = "service_error"

    def __init__(self, status: int, problem_code: str, detail: str) -> None:
        super().__init__(status, problem_code, detail)
        self.status = status
        self.problem_code = problem_code
        self.detail = detail

    def __str__(self) -> str:
        return f"the service answered {self.status} ({self.problem_code}): {self.detail}"


class ServiceUnreachable(LogError):
    """The service gave no usable answer although the request was repeated with back-off."""

    code: ClassVar[str] = "service_unreachable"


class HistoryChanged(LogError):
    """The job's log was lost and begun anew (409), or the saved state belongs to another job or history."""

    code: ClassVar[str] = "history_changed"


class BehindRetention(LogError):
    """The wanted batches are gone (410); `oldest_seq` is the oldest that the service still has, where it said so."""

    code: ClassVar[str] = "behind_retention"

    def __init__(self, next_seq: int, oldest_seq: int | None) -> None:
        super().__init__(next_seq, oldest_seq)
        self.next_seq = next_seq
        self.oldest_seq = oldest_seq

    def __str__(self) -> str:
        oldest = "unknown" if self.oldest_seq is None else self.oldest_seq
        return (
            f"a log can only be read from its oldest kept batch on; got seq {self.next_seq}, oldest is {oldest}. "
            "Start from a newer trainer checkpoint, and report durable_seq only for what is saved."
        )


class LogEnded(LogError):
    """The job ended before its last batch; `state` is `failed` or `cancelled`, `final_seq` the batches it published."""

    code: ClassVar[str] = "log_ended"

    def __init__(self, state: str, final_seq: int) -> None:
        super().__init__(state, final_seq)
        self.state = state
        self.final_seq = final_seq

    def __str__(self) -> str:
        if self.state == "cancelled":
            what_to_do = "A cancelled job cannot go on: save the trainer's state, and submit a job for what is missing."
        else:
            what_to_do = "Save the trainer's state, look at the job's events, and retry the job."
        was = "was cancelled" if self.state == "cancelled" else self.state
        return f"the job {was} after {self.final_seq} batches; all of them were delivered. {what_to_do}"


class LogStalled(LogError):
    """No new batch came within the time that the caller allowed."""

    code: ClassVar[str] = "log_stalled"


class RevokedBatch(LogError):
    """A published batch was withdrawn: it holds an excluded row, or the trainer skipped it; ranks may agree to skip."""

    code: ClassVar[str] = "revoked_batch"

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(seq, reason)
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"batch {self.seq} was revoked ({self.reason}). "
            "Open the log again with skipped=withdrawn(), the same on every rank "
            '(a single rank: on_revoked="skip", world_size=1).'
        )
