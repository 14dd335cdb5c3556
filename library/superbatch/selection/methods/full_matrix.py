"""All pairs of candidates at once, for methods that come back to the same pairs again and again; small B only.

    sigmoid    one matrix, S_ij + S_ji, and the diagonal S_ii
    softmax    one matrix of logits per model

Letters: B candidates, D width, b members of a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import logsigmoid

from superbatch.selection.candidates import at_least_float32
from superbatch.selection.errors import InvalidSelection
from superbatch.selection.methods.peers import Peers
from superbatch.selection.methods.problem import Problem, ScoredModel
from superbatch.selection.methods.sigmoid import diagonal_score
from superbatch.selection.pairs.tiles import UNIT, softplus_sum
from superbatch.selection.spec import SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int
    from torch import Tensor

MOST_CANDIDATES = 16_384
"""The largest B: a matrix of it is 1 GiB in float32, and a softmax problem holds two."""

_ROWS_AT_ONCE = 256


class FullMatrix(Protocol):
    """The criterion of any set of candidates, and what any candidate would add to it.

    Law: rise(members)[i] = criterion(members and i) - criterion(members) for each i that is not a member. Values of the
    members themselves mean nothing. Members are distinct positions, in any order; there may be none.
    """

    def criterion(self, members: Int[Tensor, " b"]) -> float:
        """Return the criterion of the set: w_l * (learner loss of it) + w_r * (reference loss of it)."""
        ...

    def rise(self, members: Int[Tensor, " b"]) -> Float64[Tensor, " B"]:
        """Return what each candidate adds to the criterion of the set by joining it."""
        ...


def full_matrix(problem: Problem) -> FullMatrix:
    """Return the matrices of a problem, under its loss.

    Logits are products in float32 at least, whatever `precision` says; sums over members are kept in float64.
    Args:
        problem: let through by `check_full_matrix`.
    Cost: 2*B*B*D FLOPs per model; memory B*B numbers for sigmoid, and for softmax B*B per model.
    """
    if problem.spec.loss == "softmax":
        return SoftmaxMatrices(problem.models)
    return SigmoidMatrix(problem.models)


def needs_full_matrix(spec: SelectionSpec) -> bool:
    """Return whether a selection by this spec makes a matrix of all pairs."""
    is_marginal = spec.loss == "softmax" and (
        spec.method == "greedy" or (spec.method == "joint" and spec.softmax_score == "marginal")
    )
    return spec.method == "gibbs" or is_marginal


def check_full_matrix(spec: SelectionSpec, num_candidates: int, *, peers: Peers) -> None:
    """Raise where the spec asks for a matrix of all pairs of too many candidates, or of several processes'.

    Raises: InvalidSelection.
    """
    if not needs_full_matrix(spec):
        return
    asked = spec.method if spec.method != "joint" else "softmax_score marginal"
    if num_candidates > MOST_CANDIDATES:
        raise InvalidSelection(
            f"{asked} compares all pairs of at most {MOST_CANDIDATES} candidates; got {num_candidates}. "
            "Use a smaller super-batch, or method joint with softmax_score conditional."
        )
    if peers.total(1) > 1:
        raise InvalidSelection(
            f"{asked} needs all candidates in one process; got {peers.total(1)} processes. "
            "Use one process, or method joint with softmax_score conditional."
        )


class SigmoidMatrix:
    """See `FullMatrix`; S = w_l * P(learner) + w_r * P(reference), and its criterion is the sum over ordered pairs.

    `pair` is S_ij + S_ji with a diagonal of 0, `diagonal` is S_ii: the rise by i is diagonal_i + sum over members k of
    pair_ki, so a caller that adds or removes single members may keep the sum up to date by rows of `pair`.
    """

    def __init__(self, models: Sequence[ScoredModel]) -> None:
        self.diagonal = diagonal_score(models)
        negative_BB = sum(
            -model.weight * logsigmoid(-_logits(model, bias=model.embeddings.logit_bias)) for model in models
        )
        assert isinstance(negative_BB, torch.Tensor)
        self.pair = negative_BB.add_(negative_BB.T.clone()).fill_diagonal_(0.0)

    def criterion(self, members: Int[Tensor, " b"]) -> float:
        """Return the sum of S over the set."""
        among_bb = self.pair[members[:, None], members]
        return float(self.diagonal[members].sum() + among_bb.sum(dtype=torch.float64) / 2)

    def rise(self, members: Int[Tensor, " b"]) -> Float64[Tensor, " B"]:
        """Return S_ii + sum over members k of (S_ki + S_ik). Cost: b*B additions."""
        return self.diagonal + self.pair[members].sum(0, dtype=torch.float64)


class SoftmaxMatrices:
    """See `FullMatrix`; the loss of a set is the sum of its members' l_i."""

    def __init__(self, models: Sequence[ScoredModel]) -> None:
        self._weighted_logits = [(model.weight, _logits(model, bias=0.0)) for model in models]

    def criterion(self, members: Int[Tensor, " b"]) -> float:
        """Return the sum over members of w_l * l_i(learner) + w_r * l_i(reference), within the set."""
        total = 0.0
        for weight, logits_BB in self._weighted_logits:
            logits_bb = logits_BB[members[:, None], members].double()
            loss_b = (logits_bb.logsumexp(0) + logits_bb.logsumexp(1)) / 2 - logits_bb.diagonal()
            total += weight * float(loss_b.sum())
        return total

    def rise(self, members: Int[Tensor, " b"]) -> Float64[Tensor, " B"]:
        """Return l_i in the set {i} + members, and the rise of each member's loss by i, which grows its denominators.

        Cost: 4*b*B exponentials per model and a temporary of 256*B numbers.
        """
        parts = [
            weight / 2 * _rise_of_one_direction(rows_BB, members)
            for weight, logits_BB in self._weighted_logits
            for rows_BB in (logits_BB, logits_BB.T)
        ]
        return torch.stack(parts).sum(0)


def _rise_of_one_direction(logits_BB: Float[Tensor, "B B"], members: Int[Tensor, " b"]) -> Float64[Tensor, " B"]:
    """Return softplus(LSE_k(L_ki) - L_ii) + sum_k softplus(L_ki - LSE_j(L_kj)), k and j over the members.

    The first term is i's own loss: its column against the members. The second is what column i adds to the denominator
    of each member's row.
    """
    lse_B = torch.full((len(logits_BB),), -torch.inf, dtype=torch.float64, device=logits_BB.device)
    raised_B = torch.zeros_like(lse_B)
    for start in range(0, len(members), _ROWS_AT_ONCE):
        logits_kB = logits_BB[members[start : start + _ROWS_AT_ONCE]]
        torch.logaddexp(lse_B, logits_kB.logsumexp(0).double(), out=lse_B)
        denominator_k = logits_kB[:, members].logsumexp(1)
        logits_kB.sub_(denominator_k[:, None]).div_(UNIT["softplus_sum"])
        raised_B += softplus_sum(logits_kB, scratch=torch.empty_like(logits_kB))
    return raised_B - logsigmoid(logits_BB.diagonal() - lse_B)


def _logits(model: ScoredModel, *, bias: float) -> Float[Tensor, "B B"]:
    """Return the logit of each image (row) with each text (column)."""
    towers = model.embeddings.map_towers(at_least_float32)
    return (towers.image @ towers.text.T).mul_(towers.logit_scale).add_(bias)
