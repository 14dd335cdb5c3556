"""Where a candidate stood among its rivals: exact ranks where the score shard has them, and said where it has not.

A shard holds a row's score in the round of its choice; of rows that were never chosen, in the last round. So rows of
one round are comparable with each other, rows of the last round with those not chosen, and a batch of a single round
as a whole. Before any was chosen, all candidates were measured alike.

Letters: B candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from superbatch_server.service.scored_batches.measures import Quantity, values_of
from superbatch_server.service.scored_batches.scores import Bools, Floats, Scores

NEIGHBOURS = 3
"""Rivals shown on either side."""


@dataclass(frozen=True, slots=True)
class Rank:
    """`rank` of `of`, from 1 = highest."""

    rank: int
    of: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known about one candidate among its rivals; `rivals` are places from the highest to the lowest.

    round: in which it was compared, its own or the last. threshold: lowest perturbed score drawn there.
    in_round: its rank by perturbed score among those compared in the same round.
    at_start: its rank by the quantity that all candidates share.
    nearest_not_chosen: places of the highest that were never chosen, by their last perturbed score.
    is_comparable: those not chosen were measured in the same round as this row.
    """

    round: int
    num_rounds: int
    drawn: int
    threshold: float | None
    in_round: Rank | None
    at_start: Rank | None
    rivals: list[int]
    nearest_not_chosen: list[int]
    is_comparable: bool


def standing_of(scores: Scores, place: int, quantity: Quantity | None) -> Standing:
    """Return where the candidate at a place stood."""
    num_rounds = int(scores.round.max(initial=0))
    is_chosen = bool(scores.chosen[place])
    own_round = int(scores.round[place]) if is_chosen else num_rounds
    drawn_B = scores.round == own_round
    is_last = own_round == num_rounds
    free_B = ~scores.chosen & np.isfinite(scores.perturbed)
    compared_B = drawn_B | free_B if is_last else drawn_B
    order = _highest_first(scores.perturbed, compared_B)
    return Standing(
        round=own_round,
        num_rounds=num_rounds,
        drawn=int(drawn_B.sum()),
        threshold=_lowest(scores.perturbed, drawn_B),
        in_round=_rank(order, place),
        at_start=None if quantity is None else _rank(_finite_order(values_of(scores, quantity)), place),
        rivals=_around(order, place),
        nearest_not_chosen=[int(other) for other in _highest_first(scores.perturbed, free_B)[: NEIGHBOURS + 1]],
        is_comparable=is_last,
    )


def _highest_first(values: Floats, within: Bools) -> npt.NDArray[np.int64]:
    places = np.flatnonzero(within & np.isfinite(values))
    return np.asarray(places[np.argsort(-values[places], kind="stable")], dtype=np.int64)


def _finite_order(values: Floats) -> npt.NDArray[np.int64]:
    return _highest_first(values, np.ones(len(values), dtype=bool))


def _lowest(values: Floats, within: Bools) -> float | None:
    found = values[within & np.isfinite(values)]
    return float(found.min()) if len(found) else None


def _rank(order: npt.NDArray[np.int64], place: int) -> Rank | None:
    at = np.flatnonzero(order == place)
    return Rank(int(at[0]) + 1, len(order)) if len(at) else None


def _around(order: npt.NDArray[np.int64], place: int) -> list[int]:
    """Return the neighbours in order, the candidate itself among them."""
    at = np.flatnonzero(order == place)
    if not len(at):
        return []
    start = max(0, int(at[0]) - NEIGHBOURS)
    return [int(other) for other in order[start : int(at[0]) + NEIGHBOURS + 1]]
