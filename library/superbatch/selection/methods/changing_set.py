"""A set of candidates that loses and gains members, its criterion, and what each candidate would add to it.

Letters: B candidates, n that join or leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from superbatch.selection.methods.full_matrix import FullMatrix, SigmoidMatrix, full_matrix
from superbatch.selection.methods.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float64, Int
    from torch import Tensor


class ChangingSet(Protocol):
    """Law: after any sequence of `add` and `remove`, both answers are those of `FullMatrix` for the members."""

    def add(self, new: Int[Tensor, " n"]) -> None:
        """Take in candidates that are not members."""
        ...

    def remove(self, old: Int[Tensor, " n"]) -> None:
        """Let members go."""
        ...

    def rise(self) -> Float64[Tensor, " B"]:
        """Return what each candidate that is not a member would add to the criterion by joining."""
        ...

    def criterion(self) -> float:
        """Return the criterion of the set, in nats."""
        ...


def changing_set(problem: Problem) -> ChangingSet:
    """Return the empty set, under the problem's loss.

    Cost: that of `full_matrix`.
    """
    matrix = full_matrix(problem)
    if isinstance(matrix, SigmoidMatrix):
        return SummedSet(matrix)
    return RecomputedSet(matrix, num_candidates=len(problem.candidates), device=problem.device)


class SummedSet:
    """Under sigmoid the rises are sums over members: a change costs n*B additions, and nothing else is worth keeping.

    The sums are kept in fp64. After 4,000 changes at t = 100 they are off by less than 1e-9, measured.
    """

    def __init__(self, matrix: SigmoidMatrix) -> None:
        self._matrix = matrix
        self._rise_B = matrix.diagonal.clone()
        self._is_member_B = torch.zeros_like(self._rise_B, dtype=torch.bool)

    def add(self, new: Int[Tensor, " n"]) -> None:
        """Add the rows of the new."""
        self._is_member_B[new] = True
        self._rise_B = self._rise_B + self._matrix.pair[new].sum(0, dtype=torch.float64)

    def remove(self, old: Int[Tensor, " n"]) -> None:
        """Subtract the rows of the old."""
        self._is_member_B[old] = False
        self._rise_B = self._rise_B - self._matrix.pair[old].sum(0, dtype=torch.float64)

    def rise(self) -> Float64[Tensor, " B"]:
        """Return S_ii + sum over members k of (S_ki + S_ik)."""
        return self._rise_B

    def criterion(self) -> float:
        """Return the sum of S over the set: each pair of two members is in the rise of both. Cost: O(B)."""
        members = self._is_member_B
        return float((self._rise_B[members] + self._matrix.diagonal[members]).sum() / 2)


class RecomputedSet:
    """Under softmax every change moves all denominators, so both are taken anew from the matrices."""

    def __init__(self, matrix: FullMatrix, *, num_candidates: int, device: torch.device) -> None:
        self._matrix = matrix
        self._is_member_B = torch.zeros(num_candidates, dtype=torch.bool, device=device)

    def add(self, new: Int[Tensor, " n"]) -> None:
        """Take in the new."""
        self._is_member_B[new] = True

    def remove(self, old: Int[Tensor, " n"]) -> None:
        """Let the old go."""
        self._is_member_B[old] = False

    def rise(self) -> Float64[Tensor, " B"]:
        """Return the rise by each candidate."""
        return self._matrix.rise(self._members())

    def criterion(self) -> float:
        """Return the criterion of the set."""
        return self._matrix.criterion(self._members())

    def _members(self) -> Int[Tensor, " b"]:
        return self._is_member_B.nonzero().squeeze(1)
