"""The rounds of a selection: score, draw, add; Algorithm 1 of the paper without its matrices.

Letters: B candidates, n drawn in one round, b in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from superbatch.selection.candidates import Candidates
from superbatch.selection.draw import draw_largest, identity_rank
from superbatch.selection.noise import gumbel
from superbatch.selection.spec import Selection, SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Float64, Int


class RunningScore(Protocol):
    """The score of every candidate given those chosen so far.

    Law: after any sequence of `add`, `score()[i]` of a candidate i not yet chosen is the criterion of i given all that
    were added, in whatever rounds they came. Values of the chosen themselves mean nothing and are never read.
    """

    def score(self) -> Float64[np.ndarray, " B"]:
        """Return the scores; the caller does not change them and is done with them before the next `add`."""
        ...

    def add(self, new_index: Int[np.ndarray, " n"]) -> None:
        """Take the new chosen into account."""
        ...


class FixedScore:
    """A score that does not depend on what was chosen."""

    def __init__(self, score: Float64[np.ndarray, " B"]) -> None:
        self._score_B = score

    def score(self) -> Float64[np.ndarray, " B"]:
        """Return the scores given at the start."""
        return self._score_B

    def add(self, new_index: Int[np.ndarray, " n"]) -> None:
        """Change nothing."""


def draw_in_rounds(
    candidates: Candidates, spec: SelectionSpec, *, running: RunningScore, sizes: Sequence[int]
) -> Selection:
    """Return the batch drawn in len(sizes) rounds, each given all rounds before it.

    Each round draws its n without replacement among the free, with probability proportional to
    exp(gain * s_i + prior_i): Gumbel noise is added and the n largest taken, so nothing is exponentiated or normalised
    and nothing can overflow. The noise is fresh in every round: noise kept over rounds would condition on having
    lost before. `top_k` is the same without noise.
    Args:
        candidates: checked before; their rows are those of `running`.
        spec: gain, sampling, seed and seq are read.
        running: scores given the chosen.
        sizes: how many each round draws.
    Returns: see `Selection`.
    Cost: O(B) per round and what `running` costs.
    Source: JEST (arXiv:2406.17711), Algorithm 1. We differ: running sums instead of full sums in each round;
        Gumbel-top-n instead of a normalised draw; a gain, a prior and exclusions; exactly b are drawn where N does not
        divide b.
    """
    B = len(candidates)
    rank_B = identity_rank(candidates.uid, candidates.dataset_index)
    log_prior_B = candidates.log_prior()
    round_B = np.full(B, -1, dtype=np.int32)
    score_B, perturbed_B = np.zeros(B), np.zeros(B)
    chosen: list[np.ndarray] = []
    for round_index, n in enumerate(sizes, start=1):
        unchosen_B = round_B == -1
        now_B = running.score()
        weight_B = spec.gain * now_B + log_prior_B
        if spec.sampling == "gumbel":
            weight_B += gumbel(spec.seed, spec.seq, round=round_index, uids=candidates.uid)
        np.copyto(score_B, now_B, where=unchosen_B)
        np.copyto(perturbed_B, weight_B, where=unchosen_B)
        new_n = draw_largest(weight_B, n, rank=rank_B, free=unchosen_B & (log_prior_B > -np.inf))
        round_B[new_n] = round_index
        chosen.append(new_n)
        if round_index < len(sizes):
            running.add(new_n)
    return Selection(chosen_index=np.concatenate(chosen), round=round_B, score=score_B, perturbed=perturbed_B)
