"""The errors that the server answers with, and the one table from code to HTTP status.

SuperbatchError (superbatch.formats.errors)
└── ApiError
    ├── Unauthorized 401
    ├── Forbidden 403
    │   └── HostRefused
    ├── NotFound 404
    │   └── LogMissing
    ├── MethodNotAllowed 405
    ├── RequestTimeout 408
    ├── Conflict 409
    │   ├── LeaseLost
    │   ├── OtherHistory
    │   ├── WrongJob
    │   ├── SecondLearner
    │   ├── WentBack
    │   ├── InUse
    │   ├── WrongState
    │   ├── WrongSeq
    │   ├── WrongOffset
    │   ├── UploadIncomplete
    │   └── NumericsChanged
    ├── Gone 410
    │   └── BehindRetention
    ├── BodyTooLarge 413
    │   └── UploadQuota
    ├── RangeRefused 416
    ├── InvalidRequest 422
    │   ├── Validation
    │   ├── PageTokenRefused
    │   ├── IdempotencyMismatch
    │   ├── UnknownRoot
    │   ├── UnsafeKey
    │   ├── ObjectMissing
    │   ├── DuplicateShard
    │   ├── NotATar
    │   ├── DigestMismatch
    │   ├── NotSafetensors
    │   ├── PickleRefused
    │   ├── NotJson
    │   ├── DatasetNotReady
    │   ├── ModelNotReady
    │   ├── WeightsMissing
    │   ├── SuperBatchTooLarge
    │   ├── RepetitionCapTooLow
    │   ├── ReplayMismatch
    │   ├── ResourcesTooSmall
    │   ├── WorldSizeDoesNotDivide
    │   ├── VariantsDoNotDivide
    │   ├── StalenessTooSmall
    │   ├── CheckpointEveryMissing
    │   ├── TooManyExcluded
    │   └── SeqBeyondLog
    ├── TooManyRequests 429
    ├── Internal 500
    ├── Unavailable 503
    └── InsufficientStorage 507

A message is *rule; got value; where; what to do*. `code` is stable: programs match on it, never on the message.
Roots and stores raise UnsafeKey, UnknownRoot and ObjectMissing too, so that one name means one thing in every layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from superbatch.formats.errors import SuperbatchError


class ApiError(SuperbatchError):
    """An answer with a problem body; `extensions` are its further members."""

    code: ClassVar[str] = "api_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The request failed"
    retry_after_s: ClassVar[int | None] = None
    """Seconds after which the same request may succeed; the header Retry-After."""

    def extensions(self) -> dict[str, int | str | None]:
        """Return members of the problem body beyond code, title, status and detail."""
        return {}


class Unauthorized(ApiError):
    """No credential, or one that this service did not give."""

    code, status, title = "unauthorized", 401, "A valid credential is needed"


class Forbidden(ApiError):
    """The credential is valid but not for this."""

    code, status, title = "forbidden", 403, "Not allowed"


class HostRefused(Forbidden):
    """The Host header names a host that this service does not answer for (protection against DNS rebinding)."""

    code, title = "host_refused", "Unknown host name"


class NotFound(ApiError):
    """No such route or object."""

    code, status, title = "not_found", 404, "Not found"


class LogMissing(NotFound):
    """The log of an attempt is not where this process can read it."""

    code, title = "log_missing", "No such log"


class MethodNotAllowed(ApiError):
    """The route exists, but not for this method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class RequestTimeout(ApiError):
    """The body of a request did not come in time."""

    code, status, title = "request_timeout", 408, "The request came too slowly"


class Conflict(ApiError):
    """The request is well formed but the present state forbids it."""

    code, status, title = "conflict", 409, "In conflict with the present state"


class LeaseLost(Conflict):
    """The attempt's token is no longer the job's current one; the driver must stop at once."""

    code, title = "lease_lost", "The lease is lost"


class OtherHistory(Conflict):
    """The log that the caller knows is not the job's log."""

    code, title = "other_history", "Another history"


class WrongJob(Conflict):
    """A consumer, cursor or checkpoint belongs to another job."""

    code, title = "wrong_job", "State of another job"


class SecondLearner(Conflict):
    """The job has a live learner of another name."""

    code, title = "second_learner", "The job has a learner already"


class WentBack(Conflict):
    """trained_seq fell without `rewind: true`."""

    code, title = "went_back", "Progress went back"


class InUse(Conflict):
    """Something refers to the object that should be deleted."""

    code, title = "in_use", "Still in use"


class WrongState(Conflict):
    """The object's state does not allow this."""

    code, title = "wrong_state", "Wrong state"


class WrongSeq(Conflict):
    """A commit does not begin at the job's next_seq, or a schedule row was recorded otherwise."""

    code, title = "wrong_seq", "Not the next batch"


class WrongOffset(Conflict):
    """A part of an upload does not begin where the upload ends."""

    code, title = "wrong_offset", "Not the next part"


class UploadIncomplete(Conflict):
    """An upload cannot be completed: parts of it are missing."""

    code, title = "upload_incomplete", "Upload not whole"


class NumericsChanged(Conflict):
    """The job began under another numerics profile."""

    code, title = "numerics_changed", "Another numerics profile"


class Gone(ApiError):
    """It existed once."""

    code, status, title = "gone", 410, "No longer kept"


class BehindRetention(Gone):
    """The wanted batches are no longer kept; `oldest_seq` is the oldest that is."""

    code, title = "behind_retention", "Behind retention"

    def __init__(self, message: str, oldest_seq: int) -> None:
        super().__init__(message, oldest_seq)
        self.oldest_seq = oldest_seq

    def __str__(self) -> str:
        return str(self.args[0])

    def extensions(self) -> dict[str, int | str | None]:
        """Return the oldest kept seq."""
        return {"oldest_seq": self.oldest_seq}


class BodyTooLarge(ApiError):
    """A request body above the limit."""

    code, status, title = "body_too_large", 413, "Body too large"


class UploadQuota(BodyTooLarge):
    """An upload for which the service has no room."""

    code, title = "upload_quota", "No room for this upload"


class RangeRefused(ApiError):
    """A Range header that names no byte of the file."""

    code, status, title = "range_refused", 416, "Range not satisfiable"


class InvalidRequest(ApiError):
    """The request asks for something that cannot be."""

    code, status, title = "invalid_request", 422, "Invalid request"


class Validation(InvalidRequest):
    """A body, a query or a header does not have the form that the OpenAPI document states."""

    code, title = "validation", "The request does not have the documented form"


class PageTokenRefused(InvalidRequest):
    """A page_token of another list, another job or another filter, or one that this service did not make."""

    code, title = "page_token_refused", "No page token of this list"


class IdempotencyMismatch(InvalidRequest):
    """An Idempotency-Key was used before for another body."""

    code, title = "idempotency_mismatch", "Idempotency-Key used for another request"


class UnknownRoot(InvalidRequest):
    """A root that the deployment does not define."""

    code, title = "unknown_root", "Unknown root"


class UnsafeKey(InvalidRequest):
    """A key that leaves its root, by its spelling or through a symbolic link."""

    code, title = "unsafe_key", "Unsafe key"


class ObjectMissing(InvalidRequest):
    """No object under this key."""

    code, title = "object_missing", "Missing object"


class DuplicateShard(InvalidRequest):
    """A manifest names a shard twice."""

    code, title = "duplicate_shard", "The same shard twice"


class NotATar(InvalidRequest):
    """A shard of a webdataset that is no tar."""

    code, title = "not_a_tar", "Not a tar"


class DigestMismatch(InvalidRequest):
    """The bytes do not have the sha256 that the request states."""

    code, title = "digest_mismatch", "Digest mismatch"


class NotSafetensors(InvalidRequest):
    """Weights whose header is not that of a safetensors file."""

    code, title = "not_safetensors", "Not a safetensors file"


class PickleRefused(InvalidRequest):
    """Weights that are a pickle or a zip of pickles; nothing from outside is executed."""

    code, title = "pickle_refused", "Pickle files are refused"


class NotJson(InvalidRequest):
    """A config or tokenizer that is not a JSON object."""

    code, title = "not_json", "Not a JSON object"


class DatasetNotReady(InvalidRequest):
    """The data set of a job is not READY."""

    code, title = "dataset_not_ready", "Data set not ready"


class ModelNotReady(InvalidRequest):
    """A model of a job is not READY."""

    code, title = "model_not_ready", "Model not ready"


class WeightsMissing(InvalidRequest):
    """A job would have to embed with a model that was registered without weights."""

    code, title = "weights_missing", "Model without weights"


class SuperBatchTooLarge(InvalidRequest):
    """The largest super-batch of a job has more candidates than the data set has rows."""

    code, title = "super_batch_too_large", "Super-batch larger than the data set"


class RepetitionCapTooLow(InvalidRequest):
    """All batches together need more examples than the cap allows."""

    code, title = "repetition_cap_too_low", "Repetition cap too low"


class ReplayMismatch(InvalidRequest):
    """The job whose schedule should be replayed cannot serve this one."""

    code, title = "replay_mismatch", "The schedule cannot be replayed"


class ResourcesTooSmall(InvalidRequest):
    """The deployment's workers and threads are far above the machine's cores."""

    code, title = "resources_too_small", "Not enough resources"


class WorldSizeDoesNotDivide(InvalidRequest):
    """b is not a multiple of world_size * accumulation."""

    code, title = "world_size_does_not_divide", "b is not divisible among the ranks"


class VariantsDoNotDivide(InvalidRequest):
    """The rows of a variant are not a multiple of world_size * accumulation, so slices would differ in their mix."""

    code, title = "variants_do_not_divide", "A variant's rows are not divisible among the ranks"


class StalenessTooSmall(InvalidRequest):
    """Under `wait` the trainer could never be served: it would wait for a checkpoint that it has not made."""

    code, title = "staleness_too_small", "max_staleness too small for this trainer"


class CheckpointEveryMissing(InvalidRequest):
    """A learner whose checkpoints are pushed must say how often it pushes."""

    code, title = "checkpoint_every_missing", "checkpoint_every is missing"


class TooManyExcluded(InvalidRequest):
    """A job would leave out more rows than it can keep in mind."""

    code, title = "too_many_excluded", "Too many excluded rows"


class SeqBeyondLog(InvalidRequest):
    """A count above the number of published batches."""

    code, title = "seq_beyond_log", "A count beyond the log"


class TooManyRequests(ApiError):
    """A limit on requests was reached."""

    code, status, title = "too_many_requests", 429, "Too many requests"
    retry_after_s = 1


class Internal(ApiError):
    """A fault of the service itself; the log has the details, the answer has none."""

    code, status, title = "internal", 500, "Internal error"


class Unavailable(ApiError):
    """The catalog or the store does not answer at the moment."""

    code, status, title = "unavailable", 503, "Unavailable at the moment"
    retry_after_s = 1


class InsufficientStorage(ApiError):
    """A disk is full. What was acknowledged is kept; the same request succeeds once there is room."""

    code, status, title = "insufficient_storage", 507, "No room on a disk"
    retry_after_s = 10


def _family(base: type[ApiError]) -> Iterator[type[ApiError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _family(kind)


STATUS_OF_CODE: dict[str, int] = {kind.code: kind.status for kind in _family(ApiError)}
"""Every code that an answer can carry, and its HTTP status."""
