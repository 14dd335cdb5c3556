"""One published batch with every candidate of its super-batch: `GET /v1/jobs/{job}/batches/{seq}`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from superbatch_server.schemas.attempts import CheckpointRef, Rule
from superbatch_server.schemas.base import Body
from superbatch_server.schemas.selection import Criterion, Loss, Method


class BatchCounts(Body):
    """What became of the candidates; the last four sum to the first."""

    candidates: int
    selected: int
    not_selected: int
    excluded: int = Field(description="Kept out by a rule: the repetition cap, a copy or near-copy of a chosen row.")
    dropped: int = Field(description="Learner embedding not finite.")


class BatchMeans(Body):
    """Means over all scored candidates and over the selected ones; null where there is nothing to average."""

    score_super_batch: float | None = Field(description="What /stats calls learnability_super_batch.")
    score_batch: float | None = Field(description="What /stats calls learnability_batch.")
    loss_learner_super_batch: float | None
    loss_learner_batch: float | None
    loss_reference_super_batch: float | None
    loss_reference_batch: float | None


class CandidateRow(Body):
    """One candidate. Losses are those before any was chosen: of the pair alone (sigmoid) or against the probe."""

    dataset_index: int
    uid: str = Field(description="32 hexadecimal digits.")
    source: str | None = Field(description="Label of its shard.")
    fate: Literal["chosen", "not_chosen", "excluded", "dropped"]
    round: int | None = Field(description="Round of its choice, from 1; null: not chosen.")
    score: float | None = Field(description="Without noise, in the round of its choice; not chosen: in the last one.")
    perturbed_score: float | None = Field(description="gain * score + noise there; null for an excluded row, too.")
    loss_learner: float | None
    loss_reference: float | None
    caption: str | None = Field(default=None, description="With fields=caption: its first 2,000 characters.")


class ScoredBatch(Body):
    """Head of a batch and one page of its candidates, in the order of the draw."""

    job: str
    seq: int
    rule: Rule
    checkpoint: CheckpointRef | None
    generation: int
    staleness: int | None = Field(description="seq - trained_seq of the checkpoint; null without one.")
    method: Method
    criterion: Criterion | None = Field(description="Null where the method reads none.")
    loss: Loss
    f: float
    B: int
    b: int
    N: int
    gain: float
    weights: tuple[float, float]
    sampling: Literal["gumbel", "top_k"]
    counts: BatchCounts
    means: BatchMeans
    rows: list[CandidateRow]
    next_page_token: str | None
