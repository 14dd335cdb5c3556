"""Numbers of a super-batch, from its scores: the quantity that all candidates share, means, and rounds.

Letters: B candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from superbatch_server.service.scored_batches.scores import Bools, Floats, Scores


class Quantity(StrEnum):
    """What every candidate of a super-batch was measured by, before any was chosen."""

    LEARNABILITY = "learnability"
    EASE = "ease"
    HARDNESS = "hardness"
    SCORE = "score"

    @property
    def formula(self) -> str:
        """The quantity in the words of its columns."""
        return _FORMULA[self]


_FORMULA = {
    Quantity.LEARNABILITY: "learner loss − reference loss",
    Quantity.EASE: "− reference loss",
    Quantity.HARDNESS: "learner loss",
    Quantity.SCORE: "score in the round of choice",
}


def quantity_of(scores: Scores) -> Quantity | None:
    """Return which quantity a super-batch has; None for a uniform one, which has no loss and no score.

    The losses of a score shard are those before any candidate is chosen (sigmoid: alone, the diagonal; softmax:
    against the probe), so pool and selected are measured alike. A method without a criterion leaves its score only.
    """
    has_learner, has_reference = _is_any(scores.loss_learner), _is_any(scores.loss_reference)
    if has_learner and has_reference:
        return Quantity.LEARNABILITY
    if has_reference:
        return Quantity.EASE
    if has_learner:
        return Quantity.HARDNESS
    return Quantity.SCORE if _is_any(scores.score) else None


def values_of(scores: Scores, quantity: Quantity) -> Floats:
    """Return the quantity of every candidate, NaN where it was dropped."""
    if quantity is Quantity.LEARNABILITY:
        return scores.loss_learner - scores.loss_reference
    if quantity is Quantity.EASE:
        return -scores.loss_reference
    return scores.loss_learner if quantity is Quantity.HARDNESS else scores.score


@dataclass(frozen=True)
class Counts:
    """What became of the candidates; the parts sum to `candidates`."""

    candidates: int
    selected: int
    not_selected: int
    excluded: int
    dropped: int


@dataclass(frozen=True)
class Means:
    """Means over all scored candidates and over the selected; None where there is nothing to average.

    `score_*` is what `/stats` calls learnability_super_batch and learnability_batch.
    """

    score_super_batch: float | None
    score_batch: float | None
    loss_learner_super_batch: float | None
    loss_learner_batch: float | None
    loss_reference_super_batch: float | None
    loss_reference_batch: float | None


def counts_of(scores: Scores) -> Counts:
    """Return how many candidates were chosen, and why the others were not."""
    selected, excluded, dropped = (int(part.sum()) for part in (scores.chosen, scores.excluded, scores.dropped))
    return Counts(len(scores), selected, len(scores) - selected - excluded - dropped, excluded, dropped)


def means_of(scores: Scores) -> Means:
    """Return the means of score and losses."""
    everyone, chosen = np.ones(len(scores), dtype=bool), scores.chosen
    return Means(
        **{
            f"{name}_{part}": mean(getattr(scores, name), within)
            for name in ("score", "loss_learner", "loss_reference")
            for part, within in (("super_batch", everyone), ("batch", chosen))
        }
    )


def mean(values: Floats, within: Bools) -> float | None:
    """Return the mean of the finite values at the places `within`, None where there is none."""
    found = values[within]
    found = found[np.isfinite(found)]
    return float(found.mean(dtype=np.float64)) if len(found) else None


@dataclass(frozen=True)
class Round:
    """One round of a joint selection: rows drawn, their mean score given the batch so far, and alone."""

    number: int
    rows: int
    mean_score: float | None
    mean_alone: float | None
    lowest_perturbed: float | None


def rounds_of(scores: Scores, quantity: Quantity) -> list[Round]:
    """Return the rounds of a batch, first to last."""
    alone = values_of(scores, quantity)
    found = []
    for number in range(1, int(scores.round.max(initial=0)) + 1):
        drawn = scores.round == number
        perturbed = scores.perturbed[drawn]
        found.append(
            Round(
                number=number,
                rows=int(drawn.sum()),
                mean_score=mean(scores.score, drawn),
                mean_alone=mean(alone, drawn),
                lowest_perturbed=float(perturbed.min()) if len(perturbed) and np.isfinite(perturbed).all() else None,
            )
        )
    return found


def _is_any(values: Floats) -> bool:
    return bool(np.isfinite(values).any())
