"""The score of joint selection under the sigmoid loss, by running sums.

Letters: B candidates, D width, n new chosen of one round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.problem import Problem, ScoredModel
from superbatch.selection.pairs.engine import PairReduction

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor


class SigmoidRunningSum:
    """s_i = S_ii + sum over chosen k of (S_ki + S_ik), with S = w_l * P(learner) + w_r * P(reference).

    This is exactly the rise of the batch's sum of S when i joins it, so round 1 draws from the diagonal alone. The sums
    of one tile are taken in the products' own type; over tiles and rounds they are kept in fp64: 8 bytes per
    candidate, and it spares the late rounds the rounding of the early ones.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._score_B = diagonal_score(problem.models)

    def score(self) -> Float64[Tensor, " B"]:
        """Return the scores given all that were added."""
        return self._score_B

    def add(self, new: Drawn) -> None:
        """Add the pairs of every candidate with the new chosen, both directions, each model."""
        requests: list[PairReduction] = []
        for model in self._problem.models:
            mine, chosen = model.embeddings, self._problem.rows(model.embeddings, new)
            scale, bias = mine.logit_scale, mine.logit_bias
            for left_BD, right_nD in ((mine.image, chosen.text), (mine.text, chosen.image)):
                requests.append(PairReduction(left_BD, right_nD, scale=scale, bias=bias, how="softplus_sum"))
        sums = self._problem.engine.reduce(requests)
        for index, model in enumerate(self._problem.models):
            self._score_B = self._score_B + model.weight * (sums[2 * index] + sums[2 * index + 1])


def diagonal_score(models: Sequence[ScoredModel]) -> Float64[Tensor, " B"]:
    """Return S_ii, the criterion of each candidate alone."""
    return torch.stack([-model.weight * logsigmoid(model.pair_logit()) for model in models]).sum(0)
