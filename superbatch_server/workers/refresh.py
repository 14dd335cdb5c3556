"""Who scores a batch: credit, staleness, and what stands in before the first checkpoint. One pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from superbatch_server.schemas.attempts import CheckpointCandidate, CheckpointRef, RefreshState, Rule
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method

WaitsFor = Literal["trainer", "checkpoint"]


@dataclass(frozen=True)
class Score:
    """The batch may be composed under this rule."""

    rule: Rule
    checkpoint: CheckpointRef | None = None


@dataclass(frozen=True)
class Wait:
    """The batch may not be composed yet."""

    waits_for: WaitsFor


def decide(seq: int, spec: CurateSpec, state: RefreshState, *, method: Method, criterion: Criterion) -> Score | Wait:
    """Return who scores batch `seq`, or what it waits for.

    1. Credit, where the learner is pushed: seq < consumer_trained_seq + max_staleness, and the consumer reports.
    2. A batch that uses no learner needs nothing more.
    3. A learner that is not pushed is fixed.
    4. Before the first ACTIVE checkpoint the rule `before_first` stands in, however many batches that takes: only
       credit bounds it.
    5. seq < trained_seq + max_staleness of the ACTIVE checkpoint; else `on_stale`.

    Args:
        method, criterion: as the spec schedules them at `seq`.
        state: looked at only where the learner is pushed.
    Source: design.md section 3.9.
    """
    refresh = spec.refresh
    if spec.pushes and not (state.consumer_live and seq < state.consumer_trained_seq + refresh.max_staleness):
        return Wait("trainer")
    if not (method.reads_criterion and criterion.uses_learner):
        return Score("no_learner")
    if not spec.pushes:
        return Score("fixed")
    if state.active is None:
        return Score(refresh.before_first)
    if seq < state.active.trained_seq + refresh.max_staleness or refresh.on_stale == "use":
        return Score("checkpoint", _reference(state.active))
    return Wait("checkpoint") if refresh.on_stale == "wait" else Score("uniform")


def _reference(active: CheckpointCandidate) -> CheckpointRef:
    assert active.generation is not None, "an ACTIVE checkpoint began a generation"
    return CheckpointRef(
        id=active.id, sha256=active.sha256, trained_seq=active.trained_seq, generation=active.generation
    )
