"""Collecting what nothing refers to any more: the request, and the report of a run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from superbatch_server.schemas.base import Body


class GarbageKind(StrEnum):
    """What may be left behind."""

    LIST = "list"
    SCORE_SHARD = "score_shard"
    JOB_FILE = "job_file"
    INDEX = "index"
    EMBEDDING = "embedding"
    PARTIAL = "partial"
    UPLOAD = "upload"
    SCRATCH = "scratch"
    ATTEMPT_LOG = "attempt_log"


class GarbageRunState(StrEnum):
    """PENDING until a supervisor begins; FAILED says why, and another run may follow."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class GarbageRequest(Body):
    """`POST /v1/gc`: look for what nothing refers to, and remove it unless it is a dry run."""

    dry_run: bool = True
    min_age_s: Annotated[float | None, Field(ge=0, le=31_536_000)] = Field(
        default=None, description="Younger files stay; default: the setting gc_min_age_s."
    )


class GarbageCount(Body):
    """Files of one kind."""

    kind: GarbageKind
    files: int = 0
    bytes: int = 0
    examples: list[str] = Field(default_factory=list, description="Some of their names.")


class GarbageReport(Body):
    """What a run has found so far; in a run that is no dry run, what it has removed."""

    found: list[GarbageCount] = Field(default_factory=list, description="One entry for each kind that was met.")
    files: int = 0
    bytes: int = 0
    looked_at: int = Field(default=0, description="Files and objects looked at.")
    young_files: int = Field(default=0, description="Nothing refers to them, but they are younger than min_age_s.")
    young_bytes: int = 0
    unknown_files: int = Field(default=0, description="Names that the service did not give; never removed.")
    unknown_examples: list[str] = Field(default_factory=list)


class GarbageRun(Body):
    """One run and how far it is."""

    id: str
    state: GarbageRunState
    dry_run: bool
    min_age_s: float
    report: GarbageReport
    error: str | None
    created_at: str
    updated_at: str
