"""The full marginal gain under the softmax loss: an oracle, and a score for small B.

Letters: B candidates, b chosen.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from superbatch.selection.methods.full_matrix import SoftmaxMatrices
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.softmax import first_round_score

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor


class SoftmaxMarginal:
    """s_i = the rise of the whole batch's criterion when i joins: its own loss, and what it adds to the others' losses.

    A new member grows the denominators of all chosen, by an amount that depends on all chosen, so this is no running
    sum: every round takes all chosen anew, from the full matrices. Round 1, where every rise is 0, is scored as under
    the conditional score. Under the sigmoid loss the running sum is the marginal gain already.
    Cost: 4*b*B exponentials per model and round; memory B*B per model, so B is bounded by
        `full_matrix.check_full_matrix`.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._score_B = first_round_score(problem)
        self._chosen_b = torch.empty(0, dtype=torch.int64, device=problem.device)

    @cached_property
    def _matrices(self) -> SoftmaxMatrices:
        return SoftmaxMatrices(self._problem.models)  # made when first needed: independent selection never does

    def score(self) -> Float64[Tensor, " B"]:
        """Return the scores given all that were added."""
        return self._score_B

    def add(self, new: Drawn) -> None:
        """Take the new chosen into account."""
        self._chosen_b = torch.cat([self._chosen_b, new.index])
        self._score_B = self._matrices.rise(self._chosen_b)
