"""The internal API between a driver and the service: everything here is fenced by (job, token).

Base path `/internal/v1/jobs/{job}/attempts/{token}`, bearer = the attempt's own secret. Every call answers 409
`lease_lost` once the token is no longer the job's current one; the driver then stops at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from superbatch_server.schemas.base import Body, Key, Sha256Hex
from superbatch_server.schemas.datasets import DatasetManifest, ShardEntry
from superbatch_server.schemas.jobs import CurateSpec, JobState, Phase
from superbatch_server.schemas.models import FileRef, Model
from superbatch_server.schemas.selection import Criterion, Method
from superbatch_server.schemas.trainers import CheckpointState

Counters = dict[str, int | float]


class Runtime(Body):
    """The deployment's settings that a driver needs; none of them may change a list's bytes except by the profile."""

    roots: dict[str, str] = Field(description="Root name to URL.")
    store_url: str
    scratch_dir: str = Field(description="Local folder for Ray and temporary files.")
    lease_s: float
    heartbeat_s: float
    num_workers: int
    shards_per_task: int
    threads_per_worker: int
    composer_threads: int
    micro_batch: int
    idle_release_s: float = Field(description="A wait longer than this puts the job back to QUEUED.")


class WalkPosition(Body):
    """Where the draw of a super-batch begins."""

    pass_index: Annotated[int, Field(ge=0)] = 0
    block: Annotated[int, Field(ge=0)] = Field(default=0, description="Position in the pass's order of blocks.")
    offset: Annotated[int, Field(ge=0)] = Field(default=0, description="Rows of that block already walked.")
    put_off: tuple[int, ...] = Field(default=(), description="dataset_index of rows that come first, in order.")


class CheckpointRef(Body):
    """The checkpoint that scores a batch."""

    id: str
    sha256: Sha256Hex
    trained_seq: int
    generation: int


Rule = Literal["checkpoint", "fixed", "easy_reference", "uniform", "initial_weights", "no_learner"]


class ScheduleRow(Body):
    """Everything that decides batch `seq`, written once before it is scored (design.md, section 4)."""

    seq: int
    row_attempt: int = 0
    rule: Rule = Field(description="Who scores: a pushed checkpoint, fixed weights, nobody, or a before_first rule.")
    checkpoint: CheckpointRef | None
    method: Method
    criterion: Criterion
    f: float
    B: int
    gain: float
    weights: tuple[float, float]
    exclusions_digest: Sha256Hex | None = None
    walk: WalkPosition
    micro_batch: int


class CacheEntry(Body):
    """A committed index or embedding shard."""

    cache_key: Sha256Hex
    kind: Literal["index", "embedding"]
    object_key: Key
    bytes: int
    sha256: Sha256Hex
    rows: int
    quarantined: dict[str, int] = Field(default_factory=dict, description="Reason to rows.")


class CacheLookup(Body):
    """`POST cache:lookup`."""

    cache_keys: list[Sha256Hex]


class CacheFound(Body):
    """Answer to CacheLookup: the entries that exist, in no order."""

    entries: list[CacheEntry]


class CheckpointCandidate(Body):
    """A checkpoint as a driver sees it."""

    id: str
    sha256: Sha256Hex
    trained_seq: int
    generation: int | None
    state: CheckpointState
    files: list[FileRef]


class RefreshState(Body):
    """`GET refresh`: what credit, the scheduled learner and the draw depend on, read in one transaction."""

    consumer_trained_seq: int = Field(description="0 while there is no learner consumer.")
    consumer_live: bool = Field(description="False when the ttl has passed; true while there is no consumer yet.")
    active: CheckpointCandidate | None = Field(description="Newest ACTIVE checkpoint of the branch.")
    unverified: CheckpointCandidate | None = Field(description="Newest RECEIVED or VERIFYING one, if newer.")
    exclusions_digest: Sha256Hex | None = Field(default=None, description="Of the rows to leave out; null for none.")


class ExclusionSet(Body):
    """`GET exclusions/{digest}`: the rows that a schedule row leaves out."""

    digest: Sha256Hex
    uids: str = Field(description="uids in ascending order, 32 hexadecimal digits each, nothing between them.")


class CheckpointVerdict(Body):
    """`POST checkpoints/{id}:verdict`, after the fixed rows were embedded."""

    ok: bool
    reason: str | None = None


class SourceCounts(Body):
    """Rows of one source, counted over a segment."""

    candidates: int
    selected: int
    dropped: int = Field(default=0, description="Candidates whose learner embedding was not finite.")
    capped: int = Field(default=0, description="Candidates chosen before as often as the repetition cap allows.")
    excluded: int = Field(default=0, description="Eligible rows that the walk stepped over because they are excluded.")


def sum_counts(counts: Iterable[SourceCounts]) -> SourceCounts:
    """Return the sum of counts, field by field."""
    listed = list(counts)
    return SourceCounts(**{name: sum(getattr(count, name) for count in listed) for name in SourceCounts.model_fields})


class SegmentStats(Body):
    """What the dashboard draws, per committed segment."""

    per_source: dict[str, SourceCounts]
    learnability_batch: list[float] = Field(
        description="Mean score of the chosen, per batch; empty where some batch of the segment has no scores (uniform)"
    )
    learnability_super_batch: list[float] = Field(description="Mean score of all candidates, likewise.")
    score_s: float
    select_s: float
    commit_s: float


class SegmentCommit(Body):
    """`POST segments`: publish batches first_seq .. first_seq + num_batches, guarded by next_seq and the token."""

    first_seq: int
    num_batches: int
    f: list[float]
    B: list[int]
    row_attempts: list[int]
    list_key: Key
    list_name: str
    bytes: int
    sha256: Sha256Hex
    score_keys: list[Key]
    batch_digests: list[Sha256Hex]
    generation: int
    rule: Rule
    checkpoint: CheckpointRef | None
    next_walk: WalkPosition = Field(description="Where the super-batch after this segment begins.")
    stats: SegmentStats


class SegmentFile(Body):
    """A bucket log file that must exist: the exact bytes, to be created if absent."""

    key: Key
    text: str


class SegmentCommitted(Body):
    """Answer to SegmentCommit."""

    next_seq: int
    log_digest: Sha256Hex
    log_files: list[SegmentFile]


class AttemptBundle(Body):
    """`GET` of the attempt: everything a driver starts from."""

    job_id: str
    history_id: str
    token: int
    spec: CurateSpec
    next_seq: int
    next_walk: WalkPosition
    dataset_id: str
    dataset_fingerprint: Sha256Hex
    dataset_rows: int
    manifest: DatasetManifest
    shards: list[ShardEntry]
    reference: Model | None
    learner: Model | None
    numerics: dict[str, str | int] | None = Field(description="Recorded profile; null before the first attempt.")
    eligible_digest: Sha256Hex | None
    schedule: list[ScheduleRow] = Field(description="Recorded rows from next_seq on, newest row attempt of each.")
    replay: list[ScheduleRow] = Field(description="Rows of the replayed job from next_seq on.")
    scheduled_checkpoints: list[CheckpointCandidate] = Field(
        description="Checkpoints that rows of `replay`, and those of `schedule`, name."
    )
    log_files: list[SegmentFile] = Field(description="The newest bucket log files, to be written again if missing.")
    runtime: Runtime


class Numerics(Body):
    """`PUT numerics`: the first attempt records, later ones must agree."""

    profile: dict[str, str | int]
    digest: Sha256Hex


class Heartbeat(Body):
    """`POST heartbeat`, every heartbeat_s, from a thread of its own."""

    phase: Phase
    counters: Counters = Field(default_factory=dict)


class HeartbeatAnswer(Body):
    """The lease is renewed; `cancel` asks the driver to stop."""

    lease_s: float
    cancel: bool


class EventReport(Body):
    """`POST events`."""

    kind: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=4000)]
    fields: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class PoolReport(Body):
    """`PUT pool`: the index pass is complete; conservation counts per source."""

    eligible_digest: Sha256Hex
    rows: int
    eligible: int
    per_source: dict[str, dict[str, int]] = Field(description="source -> {rows, eligible, quarantined, filtered}.")
    quarantined: dict[str, int]


class Release(Body):
    """`POST release`: nothing to do for longer than idle_release_s, or no room; QUEUED until that has changed."""

    waits_for: Literal["trainer", "checkpoint", "room"]
    seen_trained_seq: int
    seen_checkpoint: str | None
    seen_live: bool = Field(default=True, description="RefreshState.consumer_live when the driver looked last.")
    reason: str | None = Field(default=None, max_length=4000, description="What the driver says to people.")


class Finish(Body):
    """`POST finish`."""

    outcome: Literal["SUCCEEDED", "FAILED"]
    code: str | None = None
    message: str | None = None


class Finished(Body):
    """Answer to Finish: the job's state, CANCELLED where FAILED met a cancellation, and the log files to write."""

    state: JobState
    log_files: list[SegmentFile]
