"""The three criteria, as weights on the two models' losses.

The criterion of an example, or of a set, is w_l * (learner loss) + w_r * (reference loss):

    learnability     learner loss - reference loss: hard for the learner, but known to be learnable
    easy_reference   - reference loss: easy for the reference; needs no learner pass
    hard_learner     learner loss: hard for the learner, noise included; needs no reference

Both models keep their own scale and bias. A model whose weight is 0 is never multiplied.
"""

from __future__ import annotations

from typing import Literal

from superbatch.selection.errors import InvalidSelection

Criterion = Literal["learnability", "easy_reference", "hard_learner"]

_SIGNS: dict[str, tuple[float, float]] = {
    "learnability": (1.0, -1.0),
    "easy_reference": (0.0, -1.0),
    "hard_learner": (1.0, 0.0),
}


def criterion_weights(criterion: Criterion, *, weights: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """Return (w_l, w_r), the signed weights of the learner's and the reference's loss in the criterion.

    Args:
        criterion: one of the three names.
        weights: sizes of the two losses, each in [0, 1e6]; (1, 1) is the paper's learnability.
    Raises:
        InvalidSelection: an unknown criterion, a bad weight, or weights that leave nothing to score by.
    Source: JEST (arXiv:2406.17711), section 3.1. We differ: the two losses may be mixed unequally.
    """
    if criterion not in _SIGNS:
        raise InvalidSelection(
            f"criterion must be one of {', '.join(_SIGNS)}; got {criterion!r} (selection.criterion)."
        )
    if len(weights) != 2 or not all(0 <= weight <= 1e6 for weight in weights):
        raise InvalidSelection(
            f"weights must be two numbers in [0, 1e6]; got {weights} (selection.weights). "
            "The criterion gives the signs; use (1, 1) for the plain difference."
        )
    learner_sign, reference_sign = _SIGNS[criterion]
    signed = (learner_sign * weights[0], reference_sign * weights[1])
    if signed[0] == 0.0 and signed[1] == 0.0:
        raise InvalidSelection(
            f"weights must leave {criterion} a loss to score by; got {weights} (selection.weights). Raise one above 0."
        )
    return signed
