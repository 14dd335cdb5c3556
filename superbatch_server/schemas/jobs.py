"""Job specs and the job resource (design.md, section 3)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from superbatch.formats.schedule import Schedule, parse_schedule
from superbatch_server.schemas.base import MAX_COUNT, Body, ObjectId
from superbatch_server.schemas.selection import Criterion, Method, SelectionSpec


class JobState(StrEnum):
    """QUEUED -> RUNNING -> SUCCEEDED | FAILED; CANCELLING -> CANCELLED. FAILED may be retried."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """True when no driver will ever run for the job again, unless it is retried."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Phase(StrEnum):
    """What a job is doing, or waiting for."""

    STARTING = "starting"
    INDEXING = "indexing"
    EMBEDDING = "embedding"
    COMPOSING = "composing"
    WAITING_FOR_TRAINER = "waiting_for_trainer"
    WAITING_FOR_CHECKPOINT = "waiting_for_checkpoint"
    WAITING_FOR_ROOM = "waiting_for_room"


class LearnerSpec(Body):
    """The learner: architecture and tokenizer, and whether its weights are pushed while it trains."""

    model: ObjectId
    updates: Literal["none", "pushed"] = "none"


class DrawSpec(Body):
    """How candidates are drawn. A block is `block_rows` consecutive rows of one shard."""

    block_rows: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        default=None, description="Rows of a block; null: max(1, min(256, smallest B // 16)), fixed at submission."
    )


class RefreshSpec(Body):
    """How old scores may be, and what happens before and between checkpoints."""

    max_staleness: Annotated[int, Field(ge=1, le=1 << 31)] = Field(default=100, description="Batches.")
    on_stale: Literal["wait", "use", "uniform"] = "wait"
    before_first: Literal["easy_reference", "uniform", "initial_weights"] = "easy_reference"
    replay: ObjectId | None = Field(default=None, description="Job whose recorded schedule rows are used again.")


class ListsSpec(Body):
    """How batches are packed into lists."""

    batches_per_list: Annotated[int, Field(ge=1, le=10_000)] = 1


class CurateSpec(Body):
    """`POST /v1/jobs` of kind `curate`."""

    kind: Literal["curate"] = "curate"
    name: Annotated[str, StringConstraints(min_length=1, max_length=120)] = "curate"
    dataset: ObjectId
    reference: ObjectId | None = None
    learner: LearnerSpec | None = None
    selection: SelectionSpec
    draw: DrawSpec = DrawSpec()
    refresh: RefreshSpec = RefreshSpec()
    lists: ListsSpec = ListsSpec()
    num_batches: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0

    def criteria(self) -> set[Criterion]:
        """Every criterion that some batch of the job may use, the `before_first` rule included."""
        return self.selection.criteria() | self._stand_ins()

    def methods(self) -> set[Method]:
        """Every method that some batch of the job may use, the rules of `refresh` included."""
        rules = {self.refresh.before_first, self.refresh.on_stale} if self._waits_for_checkpoints() else set()
        return self.selection.methods() | ({Method.UNIFORM} if "uniform" in rules else set())

    def _stand_ins(self) -> set[Criterion]:
        """Return the criterion of batches before the first checkpoint, where it is another than the schedule's."""
        stands_in = self._waits_for_checkpoints() and self.refresh.before_first == "easy_reference"
        return {Criterion.EASY_REFERENCE} if stands_in else set()

    def _waits_for_checkpoints(self) -> bool:
        return self.pushes and any(criterion.uses_learner for criterion in self.selection.criteria())

    @property
    def pushes(self) -> bool:
        """True when the trainer pushes checkpoints of the learner, so that credit applies."""
        return self.learner is not None and self.learner.updates == "pushed"

    @model_validator(mode="after")
    def _models_suffice(self) -> CurateSpec:
        criteria = self.criteria()
        if self.reference is None and any(c.uses_reference for c in criteria):
            named = ", ".join(sorted(c.value for c in criteria if c.uses_reference))
            raise ValueError(
                f"criterion {named} needs a reference; got reference = null. "
                "Name a registered model, or use method uniform or criterion hard_learner"
            )
        if self.learner is None and any(c.uses_learner for c in criteria):
            named = ", ".join(sorted(c.value for c in criteria if c.uses_learner))
            raise ValueError(
                f"criterion {named} needs a learner; got learner = null. Name a model, or use easy_reference"
            )
        if self.reference is None and Method.HARD_NEGATIVES in self.methods():
            raise ValueError(
                "method hard_negatives needs a reference; got reference = null. "
                "Name a registered model, or use another method"
            )
        return self

    @model_validator(mode="after")
    def _near_copies_can_be_told(self) -> CurateSpec:
        if self.selection.max_cosine is None or self.reference is not None:
            return self
        blind = sorted(method.value for method in self.methods() if not method.reads_criterion)
        if self.learner is None or blind:
            got = (
                "no learner" if self.learner is None else f"batches of method {', '.join(blind)}, which read no learner"
            )
            raise ValueError(
                f"max_cosine needs a model that embeds every batch; got reference = null and {got}. "
                "Name a registered model as reference, or leave max_cosine out"
            )
        return self

    @model_validator(mode="after")
    def _weights_leave_a_score(self) -> CurateSpec:
        written = self.selection.model_dump(mode="json")
        criterion: Schedule[str] = parse_schedule(written["criterion"])
        weights: Schedule[tuple[float, ...]] = parse_schedule(written["weights"])
        if not self.criteria():
            return self
        stop_seq = self.num_batches
        for seq in sorted({*criterion.turning_seqs(stop_seq=stop_seq), *weights.turning_seqs(stop_seq=stop_seq)}):
            of_learner, of_reference = weights.at(seq)
            for named in sorted({Criterion(criterion.at(seq)), *self._stand_ins()}):
                if not (named.uses_learner and of_learner) and not (named.uses_reference and of_reference):
                    raise ValueError(
                        f"weights must leave criterion {named.value} a loss to score by; got {of_learner:g} for the "
                        f"learner and {of_reference:g} for the reference at seq {seq}. Raise the one it uses above 0"
                    )
        return self


class Job(Body):
    """A submitted job."""

    id: str
    name: str
    state: JobState
    phase: Phase | None
    spec: CurateSpec
    history_id: str
    next_seq: int
    num_batches: int
    attempt: int = Field(description="Fencing token: attempts begun so far.")
    error_code: str | None
    error: str | None
    created_at: str
    updated_at: str


class Event(Body):
    """One line of a job's history, for people."""

    id: int
    at: str
    kind: str
    message: str
    fields: dict[str, str | int | float | bool | None]
