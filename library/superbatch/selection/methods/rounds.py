"""The rounds of a selection: score, draw, add; Algorithm 1 of the paper without its matrices.

Letters: B candidates, n drawn in one round, b in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from superbatch.selection.errors import TooFewCandidates
from superbatch.selection.exclusions import count_by_rule
from superbatch.selection.methods.draw import identity_rank_on
from superbatch.selection.methods.duplicates import Duplicates
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.problem import Problem
from superbatch.selection.spec import Selection

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor


class RunningScore(Protocol):
    """The score of every candidate given those chosen so far.

    Law: after any sequence of `add`, `score()[i]` of a candidate i not yet chosen is the criterion of i given all that
    were added, in whatever rounds they came. Values of the chosen themselves mean nothing and are never read.
    """

    def score(self) -> Float64[Tensor, " B"]:
        """Return the scores; the caller does not change them and is done with them before the next `add`."""
        ...

    def add(self, new: Drawn) -> None:
        """Take the new chosen into account."""
        ...


class FixedScore:
    """A score that does not depend on what was chosen."""

    def __init__(self, score: Float64[Tensor, " B"]) -> None:
        self._score_B = score

    def score(self) -> Float64[Tensor, " B"]:
        """Return the scores given at the start."""
        return self._score_B

    def add(self, new: Drawn) -> None:
        """Change nothing."""


class Rounds:
    """A batch that is being drawn: who is in it, who may still come in, and why."""

    def __init__(self, problem: Problem) -> None:
        candidates, device = problem.candidates, problem.device
        B = len(candidates)
        self._problem = problem
        self._duplicates = Duplicates(problem)
        self._rank_B = identity_rank_on(device, candidates.uid, candidates.dataset_index)
        self._log_prior_B = problem.log_prior()
        self._free_B = self._log_prior_B > -torch.inf
        self._round_B = torch.full((B,), -1, dtype=torch.int32, device=device)
        self._score_B = torch.zeros(B, dtype=torch.float64, device=device)
        self._perturbed_B = torch.zeros(B, dtype=torch.float64, device=device)
        self._chosen: list[Drawn] = []

    def draw(self, score: Float64[Tensor, " B"], n: int, *, with_noise: bool = True) -> Drawn:
        """Draw n of the free into the batch, with probability proportional to exp(gain * score + prior).

        Args:
            score: of every candidate; values of those not free are not read.
            n: how many.
            with_noise: False takes the n largest.
        Raises: TooFewCandidates, when all but fewer than n are in the batch, excluded or like a row of the batch.
        """
        spec = self._problem.spec
        round_index = len(self._chosen) + 1
        weight_B = score * spec.gain + self._log_prior_B
        if with_noise:
            weight_B += self._problem.noise(round_index)
        unchosen_B = self._round_B == -1
        self._score_B = torch.where(unchosen_B, score, self._score_B)
        self._perturbed_B = torch.where(unchosen_B, weight_B, self._perturbed_B)
        parts: list[Drawn] = []
        while (missing := n - sum(part.count for part in parts)) > 0:
            wanted = min(missing, self._duplicates.most_at_once)
            proposed = self._problem.peers.draw_largest(weight_B, wanted, rank=self._rank_B, free=self._free_B)
            if proposed.count < wanted:
                raise self._too_few()
            part = self._duplicates.accept(proposed)
            self._free_B[part.index] = False
            for blocked_B in self._duplicates.blocked.values():
                self._free_B &= ~blocked_B
            self._round_B[part.index] = round_index
            parts.append(part)
        self._chosen.append(_joined(parts))
        return self._chosen[-1]

    def selection(self) -> Selection:
        """Return the batch as drawn so far."""
        excluded_B = ~self._free_B & (self._round_B == -1)
        chosen = _joined(self._chosen)
        in_order = chosen.place.argsort()
        is_whole = len(chosen.index) == chosen.count
        return Selection(
            chosen_index=chosen.index[in_order].numpy(force=True),
            round=self._round_B.numpy(force=True),
            score=self._score_B.numpy(force=True),
            perturbed=self._perturbed_B.masked_fill(excluded_B, -torch.inf).numpy(force=True),
            chosen_place=None if is_whole else chosen.place[in_order].numpy(force=True),
        )

    def _too_few(self) -> TooFewCandidates:
        candidates, spec, peers = self._problem.candidates, self._problem.spec, self._problem.peers
        masks = candidates.exclusions(spec)
        masks |= {rule: blocked_B.numpy(force=True) for rule, blocked_B in self._duplicates.blocked.items()}
        counts, _ = count_by_rule(masks, len(candidates), peers=peers)
        return TooFewCandidates(b=spec.b, num_candidates=peers.total(len(candidates)), counts=counts)


def draw_in_rounds(problem: Problem, *, running: RunningScore, sizes: Sequence[int]) -> Selection:
    """Return the batch drawn in len(sizes) rounds, each given all rounds before it.

    Each round draws its n without replacement among the free, with probability proportional to
    exp(gain * s_i + prior_i): Gumbel noise is added and the n largest taken, so nothing is exponentiated or normalised
    and nothing can overflow. The noise is fresh in every round: noise kept over rounds would condition on having
    lost before. `top_k` is the same without noise.
    Args:
        problem: checked before; its candidates are those of `running`.
        running: scores given the chosen.
        sizes: how many each round draws.
    Returns: see `Selection`.
    Raises: TooFewCandidates, when near-duplicates of the batch leave fewer than b.
    Cost: O(B) per round and what `running` costs; with `max_cosine`, 2*B*b*D FLOPs more.
    Source: JEST (arXiv:2406.17711), Algorithm 1. We differ: running sums instead of full sums in each round;
        Gumbel-top-n instead of a normalised draw; a gain, a prior and exclusions; exactly b are drawn where N does not
        divide b.
    """
    rounds = Rounds(problem)
    for round_index, n in enumerate(sizes, start=1):
        new = rounds.draw(running.score(), n, with_noise=problem.spec.sampling == "gumbel")
        if round_index < len(sizes):
            running.add(new)
    return rounds.selection()


def _joined(parts: Sequence[Drawn]) -> Drawn:
    """Return all parts as one draw, the earlier first."""
    if len(parts) == 1:
        return parts[0]
    before, indices, places = 0, [], []
    for part in parts:
        indices.append(part.index)
        places.append(part.place + before)
        before += part.count
    return Drawn(torch.cat(indices), torch.cat(places), before)
