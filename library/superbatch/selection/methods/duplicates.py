"""No content twice in one batch, and no two rows nearer to each other than a threshold.

Letters: B candidates, D width, n proposed in one round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from superbatch.selection.candidates import at_least_float32
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.problem import Problem
from superbatch.selection.pairs.engine import PairReduction

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64
    from torch import Tensor

_MOST_COMPARED = 2048


class Duplicates:
    """Which candidates may no longer be chosen, because the batch holds one like them.

    Two rules: the same content (always), and a cosine of the two images of at least `max_cosine` (where asked for).
    Law: walking down the candidates in the order of a round and skipping each that is like one already in the batch
    gives the same batch.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._content_B2 = content_words(problem)
        self._has_copies = problem.peers.total(_num_copies(self._content_B2)) > 0
        B = len(problem.candidates)
        self.blocked = {
            rule: torch.zeros(B, dtype=torch.bool, device=problem.device) for rule in ("content", "max_cosine")
        }

    @property
    def most_at_once(self) -> int:
        """How many may be proposed at once: near-duplicates among them are told by one square matrix."""
        return len(self._content_B2) if self._problem.near is None else _MOST_COMPARED

    def accept(self, proposed: Drawn) -> Drawn:
        """Return those proposed that the batch can take, in order; what is like them is blocked from now on."""
        accepted = proposed
        if self._has_copies:
            accepted = self._accept_contents(accepted)
        if self._problem.near is not None and accepted.count > 0:
            accepted = self._accept_apart(accepted, self._problem.near.image)
        return accepted

    def _accept_contents(self, proposed: Drawn) -> Drawn:
        content_n2 = self._problem.peers.gather(self._content_B2[proposed.index], proposed)
        group_n = _groups(content_n2)
        first_n = torch.zeros(len(group_n), dtype=torch.bool, device=group_n.device)
        first_n[_first_of_each(group_n)] = True
        accepted = proposed.only(first_n)
        same_B = _are_among(self._content_B2, content_n2[first_n])
        same_B[accepted.index] = False
        self.blocked["content"] |= same_B
        return accepted

    def _accept_apart(self, proposed: Drawn, image_BD: Float[Tensor, "B D"]) -> Drawn:
        problem, threshold = self._problem, self._problem.spec.max_cosine
        assert threshold is not None
        image_nD = problem.peers.gather(at_least_float32(image_BD[proposed.index]), proposed)
        apart_n = _walk(image_nD @ image_nD.T >= threshold)
        accepted = proposed.only(apart_n)
        nearest = PairReduction(image_BD, image_nD[apart_n], scale=1.0, bias=0.0, how="maximum", exact=True)
        near_B = problem.engine.reduce([nearest])[0] >= threshold
        near_B[accepted.index] = False
        self.blocked["max_cosine"] |= near_B
        return accepted


def content_words(problem: Problem) -> Int64[Tensor, "B 2"]:
    """Return the 16 bytes of each candidate's content as two integers; without a content of its own, its uid."""
    candidates = problem.candidates
    content = candidates.uid if candidates.content is None else candidates.content
    return torch.from_numpy(np.ascontiguousarray(content).view("<i8")).to(problem.device)


def _num_copies(content_B2: Int64[Tensor, "B 2"]) -> int:
    return len(content_B2) - int(_groups(content_B2).max()) - 1 if len(content_B2) else 0


def _groups(words_B2: Int64[Tensor, "B 2"]) -> Int64[Tensor, " B"]:
    """Return a number per row, from 0 without gaps, equal where the rows are equal."""
    _, group_B = torch.unique(words_B2, dim=0, return_inverse=True)
    return cast("Tensor", group_B)


def _first_of_each(group_n: Int64[Tensor, " n"]) -> Int64[Tensor, " g"]:
    position_n = torch.arange(len(group_n), device=group_n.device)
    first_g = torch.full((int(group_n.max()) + 1,), len(group_n), device=group_n.device)
    return first_g.scatter_reduce(0, group_n, position_n, "amin")


def _are_among(content_B2: Int64[Tensor, "B 2"], wanted_n2: Int64[Tensor, "n 2"]) -> Bool[Tensor, " B"]:
    group = _groups(torch.cat([wanted_n2, content_B2]))
    return torch.isin(group[len(wanted_n2) :], group[: len(wanted_n2)])


def _walk(near_nn: Bool[Tensor, "n n"]) -> Bool[Tensor, " n"]:
    """Return which of the rows stay when each is dropped that is near an earlier one that stayed."""
    stays_n = torch.ones(len(near_nn), dtype=torch.bool, device=near_nn.device)
    for row in near_nn.triu(1).any(1).nonzero().squeeze(1).tolist():
        if stays_n[row]:
            stays_n[row + 1 :] &= ~near_nn[row, row + 1 :]
    return stays_n
