"""Model FLOPs of one step, relative to uniform training: the paper's cost table, and ours.

A training step on b examples is 3*F*b: forward F, backward 2*F. Scoring R = B/b candidates for each row of the batch
with the learner adds R/3 of that. Where the learner's forward of the chosen is kept for the training step, 1/3 is
saved.

    uniform                                  1
    scoring forward reused (inline)          (R + 2) / 3               2.333 at f = 0.8
    not reused (a service)                   (R + 3) / 3               2.667
    reference online instead of cached       + R * (F_ref / F) / 3
    Flexi: s of the batch at the cost c      1 - s*(1 - c) + c * R/3   1.107 with s = 0.5, c = 0.28
    easy_reference with a cached reference   1
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from superbatch.selection.cost.errors import InvalidPlan, check


@dataclass(frozen=True)
class Policy:
    """A way of choosing the batch, as far as it decides the cost of a step."""

    name: str
    meaning: str
    reference: Literal["none", "cached", "online"] = "cached"
    """Where its embeddings come from: nowhere, one pass over the pool, or every super-batch anew."""
    scores_with_learner: bool = True
    reuses_forward: bool = False
    """The training step goes on from the scoring forward of the chosen."""
    low_resolution: bool = False
    """Flexi: candidates are scored, and part of the batch trained, at larger patches."""
    joint: bool = True
    selected_by: Literal["loader", "trainer", "service"] = "service"
    """A service publishes lists; a trainer that selects by itself needs none; a plain loader draws."""

    def __post_init__(self) -> None:
        if self.reuses_forward and (self.low_resolution or not self.scores_with_learner):
            raise InvalidPlan(
                f"only a scoring forward at full resolution can be reused; got policy {self.name!r}. "
                "Drop reuses_forward."
            )


@dataclass(frozen=True)
class LowResolution:
    """Flexi-JEST: cost of a low-resolution pass relative to a full one, and the share of the batch trained so."""

    cost: float = 0.28
    share: float = 0.5

    def __post_init__(self) -> None:
        rule = "a pass at low resolution must cost a share in (0, 1] of a full one"
        check(0 < self.cost <= 1, rule, self.cost, "The paper's is 0.28.")
        rule = "the part of the batch trained at low resolution must be in [0, 1]"
        check(0 <= self.share <= 1, rule, self.share, "The paper's is 0.5.")


@dataclass(frozen=True)
class StepCost:
    """Model FLOPs of one step in units of a uniform one, 3*F*b."""

    training: float
    scoring: float
    reference: float

    @property
    def total(self) -> float:
        """The cost of the step; 1 for uniform."""
        return self.training + self.scoring + self.reference


UNIFORM = Policy(
    "uniform",
    "random batches of the trainer's own loader",
    reference="none",
    scores_with_learner=False,
    joint=False,
    selected_by="loader",
)
JEST_REUSED = Policy(
    "jest-inline",
    "joint, selected inside the trainer: forward of the chosen reused",
    reuses_forward=True,
    selected_by="trainer",
)
JEST = Policy("jest", "joint, by a service: forward of the chosen not reused")
JEST_ONLINE = Policy("jest-online", "the same, the reference run on every super-batch", reference="online")
FLEXI_JEST = Policy("flexi-jest", "joint, scored and half trained at twice the patch", low_resolution=True)
EASY_REFERENCE = Policy("easy-reference", "joint, scored by the cached reference alone", scores_with_learner=False)
INDEPENDENT = Policy("independent", "learnability of each example alone", joint=False)

POLICIES = (UNIFORM, JEST, JEST_REUSED, JEST_ONLINE, FLEXI_JEST, EASY_REFERENCE, INDEPENDENT)


def candidates_per_row(f: float) -> float:
    """Return R = B/b = 1 / (1 - f).

    Args:
        f: filter ratio in [0, 1), the share thrown away.
    Raises: InvalidPlan, f out of range.
    """
    check(0 <= f < 1, "f must be in [0, 1)", f, "Use 0.8 to keep one in five.")
    return 1 / (1 - f)


def step_cost(
    policy: Policy, *, R: float, reference_cost: float = 1.0, low_resolution: LowResolution | None = None
) -> StepCost:
    """Return the model FLOPs of one step of `policy` relative to a uniform step.

    Not counted: the selection's own products (`products`), and the pool pass of a cached reference, M*F_ref once.
    Args:
        policy: one of POLICIES, or another combination.
        R: candidates for each row of the batch, at least 1.
        reference_cost: F_ref / F, the reference's forward FLOPs relative to the learner's.
        low_resolution: cost and share of Flexi-JEST; default: the paper's.
    Returns: three parts, each in units of 3*F*b.
    Raises: InvalidPlan, R below 1 or reference_cost not above 0.
    Source: JEST (arXiv:2406.17711), section 3 and table 1. We differ: `jest` is a service, which cannot keep the
        forward of the chosen, (R + 3) / 3; the paper's figure is `jest-inline`.
    """
    check(1 <= R < inf, "R = B/b must be at least 1", R, "A batch comes out of its candidates.")
    check(0 < reference_cost < inf, "F_ref / F must be above 0", reference_cost, "It is 1 for one architecture.")
    low = low_resolution or LowResolution()
    scale = low.cost if policy.low_resolution else 1.0
    training = 1 - low.share * (1 - low.cost) if policy.low_resolution else 1.0
    return StepCost(
        training=training - (1 / 3 if policy.reuses_forward else 0.0),
        scoring=scale * R / 3 if policy.scores_with_learner else 0.0,
        reference=R * reference_cost / 3 if policy.reference == "online" else 0.0,
    )
