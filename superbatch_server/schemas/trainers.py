"""What a trainer reports: its progress, and its learner's checkpoints (trainer-contract.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from superbatch_server.schemas.base import MAX_COUNT, Body, Sha256Hex
from superbatch_server.schemas.models import FileRef

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
UidHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""The uid of a row in 32 lower-case hexadecimal digits."""
Reason = Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True)]

MAX_SKIPPED = 1000
MAX_EXCLUDED_AT_ONCE = 100_000


class SkippedBatch(Body):
    """A whole batch that a trainer left out on all its ranks."""

    seq: Count
    reason: Reason


class ConsumerReport(Body):
    """`PUT /v1/jobs/{job}/consumers/{name}`, by rank 0. All `*_seq` are counts."""

    role: Literal["learner", "reader"]
    world_size: Annotated[int, Field(ge=1, le=1 << 20)]
    accumulation: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    read_ahead: Count = Field(description="Batches asked for ahead of the one being trained.")
    checkpoint_every: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None, description="Batches between pushed checkpoints; needed where the learner is pushed."
    )
    delivered_seq: Count = 0
    trained_seq: Count = 0
    durable_seq: Count = 0
    log_digest: Sha256Hex = Field(description="Log digest after batch trained_seq - 1.")
    ttl_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    rewind: bool = Field(default=False, description="The trainer went back to its last checkpoint.")
    skipped: Annotated[list[SkippedBatch], Field(max_length=MAX_SKIPPED)] = Field(
        default=[], description="Batches left out whole; those of the learner are then listed as revoked. Repeatable."
    )

    @model_validator(mode="after")
    def _ordered(self) -> ConsumerReport:
        if not self.durable_seq <= self.trained_seq <= self.delivered_seq:
            raise ValueError(
                "counts must satisfy durable_seq <= trained_seq <= delivered_seq; got "
                f"{self.durable_seq}, {self.trained_seq}, {self.delivered_seq}. "
                "Report what is saved, trained, delivered"
            )
        return self


class Consumer(Body):
    """A registered trainer."""

    name: str
    report: ConsumerReport
    expires_at: str
    is_live: bool


class CheckpointState(StrEnum):
    """RECEIVED -> VERIFYING -> ACTIVE -> SUPERSEDED; or REJECTED, or ORPHANED by a rewind."""

    RECEIVED = "RECEIVED"
    VERIFYING = "VERIFYING"
    ACTIVE = "ACTIVE"
    SUPERSEDED = "SUPERSEDED"
    ORPHANED = "ORPHANED"
    REJECTED = "REJECTED"


class CheckpointPush(Body):
    """`POST /v1/jobs/{job}/checkpoints`: one weights file in a root."""

    trained_seq: Count = Field(description="Batches of this job already in these weights.")
    files: Annotated[list[FileRef], Field(min_length=1, max_length=1)]

    @model_validator(mode="after")
    def _weights_only(self) -> CheckpointPush:
        if self.files[0].role != "weights":
            raise ValueError(
                f"a checkpoint must be one file of role 'weights'; got {self.files[0].role!r}. "
                "Config and tokenizer come from the registered model"
            )
        return self


class Checkpoint(Body):
    """A pushed checkpoint."""

    id: str
    job: str
    trained_seq: int
    files: list[FileRef]
    sha256: Sha256Hex
    state: CheckpointState
    generation: int | None
    reason: str | None
    created_at: str


class ExclusionRequest(Body):
    """`POST /v1/jobs/{job}/exclusions`: rows that no batch composed from now on may hold."""

    uids: Annotated[list[UidHex], Field(min_length=1, max_length=MAX_EXCLUDED_AT_ONCE)]
    reason: Reason = "excluded"


class ExclusionVersion(Body):
    """What one request added."""

    version: int
    digest: Sha256Hex = Field(description="Of all uids up to this version; schedule rows name it.")
    num_uids: int = Field(description="All uids up to this version.")
    reason: str
    created_at: str


class Exclusions(Body):
    """The rows that a job leaves out, and what that withdrew."""

    job: str
    digest: Sha256Hex | None = Field(description="Of the newest version; null while nothing is excluded.")
    num_uids: int
    is_searching: bool = Field(description="True while published batches are still looked through for these rows.")
    num_revoked: int = Field(description="Published batches listed as revoked, skipped ones included.")
    versions: list[ExclusionVersion] = Field(description="The newest hundred, newest first.")
