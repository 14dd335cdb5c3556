"""No content twice in one batch, and no two images nearer to each other than a threshold.

Letters: B candidates, D width, C of them in one block, n proposed at once, G contents that several candidates hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.candidates import DualEmbeddings, at_least_float32
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.problem import Problem
from superbatch.selection.pairs.engine import PairReduction

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64
    from torch import Tensor

COSINE_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
"""What a cosine is off by at most, by the type of the products: pairs count as near from that much below the threshold,
so that no pair at the threshold, equal images at 1 included, is let through. Measured in float32: 8e-7 at most."""

_MOST_COMPARED = 2048
_ROWS_AT_ONCE = 4096


class Duplicates:
    """Which candidates may no longer be chosen, because the batch holds one like them.

    Two rules: the same content (always), and a cosine of the two images of at least `max_cosine` (where asked for).
    Law: walking down the candidates in the order of a round and skipping each that is like one already in the batch
    gives the same batch, however many are proposed at once.
    """

    def __init__(self, problem: Problem) -> None:
        B, device = len(problem.candidates), problem.device
        self._problem = problem
        self._number_B: Int64[Tensor, " B"] | None = None
        if problem.copies is not None:
            self._number_B = torch.from_numpy(problem.copies.number).to(device)
            # One more entry than contents, never taken: -1, the number of a content without a copy, points at it.
            self._is_taken_G = torch.zeros(problem.copies.num_contents + 1, dtype=torch.bool, device=device)
        self._least_dot_B: Float64[Tensor, " B"] | None = None
        if problem.near is not None:
            self._threshold = near_threshold(problem)
            self._least_dot_B = image_norms(problem.near) * self._threshold
        self._is_member_B = torch.zeros(B, dtype=torch.bool, device=device)
        rules = {"content": problem.copies is not None, "max_cosine": problem.near is not None}
        self.blocked = {rule: torch.zeros(B, dtype=torch.bool, device=device) for rule, is_on in rules.items() if is_on}
        if problem.copies is not None:
            self.blocked["content"] |= torch.from_numpy(problem.copies.is_behind).to(device)

    @property
    def most_at_once(self) -> int:
        """How many may be proposed at once, the same in every process: near-duplicates among them are told by one
        square matrix."""
        return self._problem.spec.b if self._problem.near is None else _MOST_COMPARED

    def accept(self, proposed: Drawn) -> Drawn:
        """Return those proposed that the batch can take, in order; what is like them is blocked from now on."""
        number_n, unit_nD = self._numbers(proposed), self._directions(proposed)
        if unit_nD is not None:
            like_nn = unit_nD @ unit_nD.T >= self._threshold
            if number_n is not None:
                like_nn |= (number_n[:, None] == number_n) & (number_n >= 0)
            kept_n = self._problem.peers.agreed(walk(like_nn))
        elif number_n is not None:
            kept_n = _is_first_of_its_number(number_n, num_contents=len(self._is_taken_G) - 1)
        else:
            return proposed
        accepted = proposed.only(kept_n)
        self._is_member_B[accepted.index] = True
        if number_n is not None:
            self._block_contents(number_n[kept_n])
        if unit_nD is not None:
            self._block_near(unit_nD[kept_n])
            # Told near by the square matrix; the engine's rounding may be another.
            self.blocked["max_cosine"][proposed.index[~kept_n[proposed.place]]] = True
        return accepted

    def _numbers(self, proposed: Drawn) -> Int64[Tensor, " n"] | None:
        if self._number_B is None:
            return None
        return self._problem.peers.gather(self._number_B[proposed.index], proposed)

    def _directions(self, proposed: Drawn) -> Float[Tensor, "n D"] | None:
        near = self._problem.near
        if near is None:
            return None
        return self._problem.peers.gather(unit_rows(near.image.index_select(0, proposed.index)), proposed)

    def _block_contents(self, number_n: Int64[Tensor, " n"]) -> None:
        assert self._number_B is not None
        self._is_taken_G[number_n[number_n >= 0]] = True
        self.blocked["content"] |= self._is_taken_G[self._number_B] & ~self._is_member_B

    def _block_near(self, unit_nD: Float[Tensor, "n D"]) -> None:
        assert self._problem.near is not None
        assert self._least_dot_B is not None
        dots = PairReduction(self._problem.near.image, unit_nD, scale=1.0, bias=0.0, how="maximum", exact=True)
        near_B = self._problem.engine.reduce([dots])[0] >= self._least_dot_B
        self.blocked["max_cosine"] |= near_B & ~self._is_member_B


def near_threshold(problem: Problem) -> float:
    """Return the cosine from which on two images count as near: max_cosine, less what rounding may take."""
    assert problem.spec.max_cosine is not None
    assert problem.near is not None
    is_double = problem.engine.compute_dtype == problem.near.image.dtype == torch.float64
    return problem.spec.max_cosine - COSINE_ROUNDING[torch.float64 if is_double else torch.float32]


def unit_rows(image_nD: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """Return the rows at length 1: those stored in fp16 are off by more than a threshold near 1 bears."""
    wide_nD = at_least_float32(image_nD)
    return wide_nD.div(torch.linalg.vector_norm(wide_nD, dim=1, keepdim=True))


def image_norms(model: DualEmbeddings) -> Float64[Tensor, " B"]:
    """Return the length of each image embedding, reading them by blocks."""
    norm_B = torch.empty(len(model), dtype=torch.float64, device=model.image.device)
    for start in range(0, len(model), _ROWS_AT_ONCE):
        block_CD = model.image[start : start + _ROWS_AT_ONCE]
        norm_B[start : start + _ROWS_AT_ONCE] = torch.linalg.vector_norm(block_CD, dim=1, dtype=torch.float64)
    return norm_B


def like_matrix(problem: Problem) -> Bool[Tensor, "B B"] | None:
    """Return which pairs of candidates may not be in one batch, the diagonal False; None where all may. Small B only.

    Cost: B*B bytes; with `max_cosine`, 2*B*B*D FLOPs and a copy of the image embeddings.
    """
    if problem.copies is None and problem.near is None:
        return None
    B = len(problem.candidates)
    like_BB = torch.zeros(B, B, dtype=torch.bool, device=problem.device)
    if problem.copies is not None:
        number_B = torch.from_numpy(problem.copies.number).to(problem.device)
        like_BB |= (number_B[:, None] == number_B) & (number_B >= 0)
    if problem.near is not None:
        unit_BD, threshold = unit_rows(problem.near.image), near_threshold(problem)
        for start in range(0, B, _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            like_BB[block] |= unit_BD[block] @ unit_BD.T >= threshold
    return like_BB.logical_or_(like_BB.T.clone()).fill_diagonal_(False)


def walk(like: Bool[Tensor, "n n"]) -> Bool[Tensor, " n"]:
    """Return which rows stay when each is skipped that is like an earlier one that stayed. Only pairs with the earlier
    as the row are read.

    Cost: n^2 bytes on the host, and one pass over the row of each that has a later one like it.
    """
    like_nn = np.triu(like.numpy(force=True), 1)
    stays_n = np.ones(len(like_nn), dtype=bool)
    for row in np.flatnonzero(like_nn.any(1)):
        if stays_n[row]:
            stays_n[row + 1 :] &= ~like_nn[row, row + 1 :]
    return torch.from_numpy(stays_n).to(like.device)


def _is_first_of_its_number(number_n: Int64[Tensor, " n"], *, num_contents: int) -> Bool[Tensor, " n"]:
    """Return which rows are the first with their number; those with -1 all are."""
    position_n = torch.arange(len(number_n), device=number_n.device)
    first_G = torch.full((num_contents + 1,), len(number_n), device=number_n.device)
    first_G.scatter_reduce_(0, number_n.where(number_n >= 0, num_contents), position_n, "amin")
    return (number_n < 0) | (first_G[number_n] == position_n)
