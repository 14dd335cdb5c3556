"""What a job did to its data, in numbers: `GET /v1/jobs/{job}/stats`."""

from __future__ import annotations

from pydantic import Field

from superbatch_server.schemas.attempts import CheckpointRef, Counters, Rule, ScheduleRow
from superbatch_server.schemas.base import Body
from superbatch_server.schemas.jobs import JobState, Phase


class SourceStats(Body):
    """One source. Pool counts are null until the index pass is complete; ratios are null while nothing was drawn."""

    rows: int | None = Field(description="Raw rows in the data set.")
    eligible: int | None
    quarantined: int | None
    filtered: int | None = Field(description="Rows that a dataset-level method left out.")
    candidates: int = Field(description="Rows looked at, counted once per super-batch.")
    selected: int
    dropped: int = Field(description="Candidates whose learner embedding was not finite.")
    capped: int = Field(description="Candidates chosen before as often as the repetition cap allows.")
    excluded: int = Field(default=0, description="Eligible rows that the walk stepped over, in each pass: excluded.")
    filter_ratio: float | None = Field(description="1 - selected / candidates.")
    pool_share: float | None = Field(description="Share of the eligible rows; of the candidates until they are known.")
    kept_share: float | None = Field(description="Share of the selected rows.")
    lift: float | None = Field(description="kept_share / pool_share.")


class SegmentPoint(Body):
    """One published segment, for curves over seq."""

    first_seq: int
    num_batches: int
    generation: int
    rule: Rule
    checkpoint: CheckpointRef | None
    staleness: list[int] | None = Field(description="seq - trained_seq of the checkpoint, per batch; null without one.")
    f: list[float]
    B: list[int]
    learnability_batch: list[float] = Field(description="Mean score of the chosen, per batch.")
    learnability_super_batch: list[float] = Field(description="Mean score of all candidates, per batch.")
    score_s: float
    select_s: float
    commit_s: float
    committed_at: str


class JobStats(Body):
    """`loaded` and `trained` are two of the three budgets: rows looked at, and rows given to the trainer."""

    job: str
    state: JobState
    phase: Phase | None
    next_seq: int
    num_batches: int
    consumer_trained_seq: int = Field(description="Batches that the learner has trained; 0 while there is none.")
    loaded: int = Field(description="Candidates over all published batches.")
    trained: int = Field(description="Selected rows over all published batches.")
    trained_flops_fraction: float = Field(
        description="FLOPs of training these rows relative to all of them in full; 1 without variants."
    )
    dropped: int
    capped: int
    filter_ratio: float | None
    rows: int | None = Field(description="Raw rows of the data set.")
    eligible: int | None
    quarantined: dict[str, int] = Field(description="Reason to rows; empty until the index pass is complete.")
    sources: dict[str, SourceStats]
    generation: int = Field(description="Learner refreshes so far.")
    max_staleness: int | None = Field(description="The oldest score that entered a published batch, in batches.")
    excluded: int = Field(description="Rows that batches composed from now on leave out, by uid.")
    exclusions_digest: str | None = Field(description="Of those rows; the schedule names it.")
    is_searching: bool = Field(description="True while published batches are looked through for excluded rows.")
    num_revoked: int = Field(description="Published batches that the manifest lists as revoked.")
    counters: Counters = Field(description="What the running attempt counts.")
    segments: list[SegmentPoint] = Field(description="The newest ones, oldest first.")
    schedule: list[ScheduleRow] = Field(description="What decided the batches of these segments.")
