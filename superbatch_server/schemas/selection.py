"""How a job selects its batches: the `selection` of a job spec."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from superbatch.formats.errors import InvalidInput
from superbatch.formats.variants import MAX_VARIANTS, trained_flops_fraction, variant_counts
from superbatch_server.schemas.base import MAX_COUNT, Body

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
Loss = Literal["sigmoid", "softmax"]
Seq = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Method(StrEnum):
    """How the batch is chosen from the super-batch."""

    JOINT = "joint"
    INDEPENDENT = "independent"
    UNIFORM = "uniform"
    HARD_NEGATIVES = "hard_negatives"

    @property
    def reads_criterion(self) -> bool:
        """True when the losses of learner and reference make the score; else the criterion is not read."""
        return self in (Method.JOINT, Method.INDEPENDENT)


class Criterion(StrEnum):
    """What makes an example worth choosing."""

    LEARNABILITY = "learnability"
    EASY_REFERENCE = "easy_reference"
    HARD_LEARNER = "hard_learner"

    @property
    def uses_learner(self) -> bool:
        """True when the learner's loss enters the score."""
        return self is not Criterion.EASY_REFERENCE

    @property
    def uses_reference(self) -> bool:
        """True when the reference's loss enters the score."""
        return self is not Criterion.HARD_LEARNER


class _Schedule(Body):
    @model_validator(mode="after")
    def _increasing(self) -> _Schedule:
        seqs = [point[0] for point in self.points]  # type: ignore[attr-defined]
        if seqs[0] != 0 or any(left >= right for left, right in pairwise(seqs)):
            raise ValueError(
                f"points of a schedule must start at seq 0 and increase; got seqs {seqs}. Sort them and begin at 0"
            )
        return self


class FractionSchedule(_Schedule):
    """f over seq."""

    points: Annotated[list[tuple[Seq, Fraction]], Field(min_length=1, max_length=1000)]
    between: Literal["step", "linear"] = "step"


class GainSchedule(_Schedule):
    """gain over seq."""

    points: Annotated[list[tuple[Seq, Weight]], Field(min_length=1, max_length=1000)]
    between: Literal["step", "linear"] = "step"


class WeightsSchedule(_Schedule):
    """(learner weight, reference weight) over seq."""

    points: Annotated[list[tuple[Seq, tuple[Weight, Weight]]], Field(min_length=1, max_length=1000)]
    between: Literal["step", "linear"] = "step"


class CriterionSchedule(_Schedule):
    """criterion over seq."""

    points: Annotated[list[tuple[Seq, Criterion]], Field(min_length=1, max_length=1000)]
    between: Literal["step"] = "step"


class MethodSchedule(_Schedule):
    """method over seq."""

    points: Annotated[list[tuple[Seq, Method]], Field(min_length=1, max_length=1000)]
    between: Literal["step"] = "step"


class VariantSpec(Body):
    """A way to show an example to the model, and how much of each batch is shown so."""

    resolution: Annotated[int, Field(ge=1, le=1 << 16)] = Field(description="Side of the picture in pixels.")
    patch: Annotated[int, Field(ge=1, le=1 << 16)] | None = Field(
        default=None, description="Side of a patch in pixels; null where the model has none."
    )
    flops_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        description="FLOPs of training a row so, relative to variant 0."
    )
    share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="Share of the rows of each batch.")


class SelectionSpec(Body):
    """How each batch is selected. f, gain, weights, criterion and method may be schedules; the rest is constant."""

    method: Method | MethodSchedule = Field(default=Method.JOINT)
    criterion: Criterion | CriterionSchedule = Field(
        default=Criterion.LEARNABILITY, description="Read by the methods joint and independent."
    )
    b: Annotated[int, Field(ge=1, le=1 << 20)] = Field(description="Rows of a batch, over all ranks.")
    f: Fraction | FractionSchedule = Field(default=0.8, description="Filter ratio, 1 - b/B.")
    N: Annotated[int, Field(ge=1, le=4096)] = Field(default=16, description="Rounds of a joint selection.")
    gain: Weight | GainSchedule = Field(default=1.0, description="Inverse temperature of the score.")
    weights: tuple[Weight, Weight] | WeightsSchedule = Field(
        default=(1.0, 1.0), description="Weights of the learner's and the reference's loss."
    )
    sampling: Literal["gumbel", "top_k"] = Field(default="gumbel", description="Draw by exp(gain * score), or the top.")
    loss: Loss = Field(
        default="sigmoid",
        description=(
            "Loss of both models, whichever they were trained with; logit scale and bias are those of their weights. "
            "Softmax reads no bias."
        ),
    )
    first_round: Literal["probe", "diagonal"] = Field(
        default="probe",
        description="Softmax: what scores an example while nothing is chosen, a probe or the bare logits of its pair.",
    )
    probe_size: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        default=None, description="Softmax: candidates in the probe; null: b."
    )
    repetition_cap: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        default=None,
        description="How often an example may be chosen over the job, copies of a row counted together; null: no cap.",
    )
    max_cosine: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None,
        description=(
            "No batch holds two rows whose tower-a embeddings have at least this cosine, under the reference or, "
            "without one, the learner; null: no such rule."
        ),
    )
    precision: Literal["native", "bf16"] = Field(
        default="native", description="Products of embeddings in fp32, or of factors rounded to bf16, summed in fp32."
    )
    variants: Annotated[tuple[VariantSpec, ...], Field(max_length=MAX_VARIANTS)] = Field(
        default=(),
        description=(
            "How rows are shown to the model, the full way first; shares sum to 1 within 0.001 and are rounded by "
            "largest remainder. Empty: every row is full."
        ),
    )

    def variant_counts(self) -> tuple[int, ...]:
        """Rows of each variant in every batch; (b,) without variants."""
        return variant_counts(self.b, [variant.share for variant in self.variants])

    def trained_flops_fraction(self) -> float:
        """FLOPs of training a batch relative to one whose rows are all full."""
        return trained_flops_fraction(self.variant_counts(), [variant.flops_fraction for variant in self.variants])

    def methods(self) -> set[Method]:
        """Every method that the schedule names."""
        method = self.method
        return {point[1] for point in method.points} if isinstance(method, MethodSchedule) else {method}

    def criteria(self) -> set[Criterion]:
        """Every criterion that the schedule names; none where no method reads it."""
        if not any(method.reads_criterion for method in self.methods()):
            return set()
        criterion = self.criterion
        return {point[1] for point in criterion.points} if isinstance(criterion, CriterionSchedule) else {criterion}

    @model_validator(mode="after")
    def _rounds_fit(self) -> SelectionSpec:
        if self.b < self.N:
            raise ValueError(f"N must not exceed b; got N = {self.N}, b = {self.b}. Lower N to at most {self.b}")
        return self

    @model_validator(mode="after")
    def _variants_fit(self) -> SelectionSpec:
        if self.variants and self.variants[0].flops_fraction != 1.0:
            raise ValueError(
                f"variant 0 is the full one, flops_fraction 1; got {self.variants[0].flops_fraction:g}. "
                "Put the full variant first, and state the others relative to it"
            )
        try:
            self.variant_counts()
        except InvalidInput as error:
            raise ValueError(str(error).rstrip(".")) from error
        return self

    @model_validator(mode="after")
    def _probe_has_a_reader(self) -> SelectionSpec:
        if self.loss != "softmax" and (self.probe_size is not None or self.first_round != "probe"):
            raise ValueError(
                f"first_round and probe_size belong to loss softmax; got first_round = {self.first_round}, "
                f"probe_size = {self.probe_size} under loss {self.loss}. Leave them out, or use loss softmax"
            )
        return self

    @model_validator(mode="after")
    def _near_copies_are_told(self) -> SelectionSpec:
        if Method.HARD_NEGATIVES in self.methods() and self.max_cosine is None:
            raise ValueError(
                "method hard_negatives needs max_cosine, or it would fill the batch with near-copies; "
                "got max_cosine = null. Use 0.95"
            )
        return self
