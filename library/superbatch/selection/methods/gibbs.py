"""Brute force by Gibbs sampling: the yardstick for how learnable a batch can get, for small B.

Letters: B candidates, b members of the batch, n drawn anew in one iteration, W iterations of one window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.methods.changing_set import changing_set
from superbatch.selection.methods.draw import draw_largest, identity_rank_on
from superbatch.selection.methods.duplicates import like_matrix, walk
from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import Rounds
from superbatch.selection.spec import Selection

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int
    from torch import Tensor

NUM_BLOCKS = 16
"""An iteration draws b/16 members anew, so 16 iterations, a sweep, renew every member once."""

SWEEPS_PER_WINDOW = 10
"""A batch is flat when the last 10 sweeps are no better than the 10 before."""


@dataclass(frozen=True, eq=False)
class GibbsStep:
    """The batch after an iteration (0 = the start), and its criterion: the sum over the set, in nats."""

    iteration: int
    members: Int[np.ndarray, " b"]
    criterion: float


def select_gibbs(problem: Problem) -> Selection:
    """Return the batch at which a Gibbs sampling has become flat.

    Start: b drawn in proportion to exp(prior_i). One iteration draws one block of b/16 members (at least 1; the block
    that was drawn longest ago) anew given the rest R of the batch: without replacement from all that are not in R,
    each with probability proportional to exp(gain * s_i + prior_i), s_i the rise of the criterion of R when i joins.
    With blocks of 1 its stationary law is exactly P(batch) ~ exp(gain * criterion(batch) + sum of its priors) over all
    batches that the exclusions allow; larger blocks do not see the pairs within the block. `top_k` takes the members
    of largest rise instead of drawing them: with blocks of 1 (b <= 16) a climb to where no member can be bettered;
    with larger ones the criterion may also fall.

    It stops when it is flat (`is_flat`), at the latest after `num_iterations`. The start has the noise of round 1,
    iteration t that of round 1 + t: fresh each time. Where near-duplicates leave too few for a block, it stays.
    Args:
        problem: all fields of its spec but `method`, `num_chunks`, `probe_size`, `first_round`, `softmax_score` and
            `precision` are read; under softmax the rise counts what i adds to the losses of R.
    Returns: see `Selection`: the batch, those drawn last at the end; every `round` is 1. The score is s_i in the
        iteration in which i was last drawn (not chosen: in the last one; of the start: 0).
    Raises: TooFewCandidates, when near-duplicates of the start leave fewer than b.
    Cost: see `full_matrix`: memory B*B per matrix, so B is bounded; an iteration takes 2*n*B additions (sigmoid) or
        4*b*B exponentials per model (softmax).
    Source: JEST (arXiv:2406.17711), figure 2, "brute-force Gibbs sampling". We differ: the block, the start and the end
        are written down; a prior and exclusions.
    """
    chain = GibbsChain(problem)
    for _ in chain.steps():
        pass
    return chain.selection()


def is_flat(criterion: Sequence[float], *, sweep: int) -> bool:
    """Return whether the last window of iterations is no better than the window before it.

    A window is 10 sweeps; it is no better when the means of the two differ by at most the standard error of that
    difference, taken from the means of the sweeps. A steady rise of d per sweep differs by 10 d at an error of 1.4 d.
    Args:
        criterion: of every iteration so far.
        sweep: iterations that renew every member once.
    """
    if len(criterion) < 2 * SWEEPS_PER_WINDOW * sweep:
        return False
    last = np.array(criterion[-2 * SWEEPS_PER_WINDOW * sweep :]).reshape(2, SWEEPS_PER_WINDOW, sweep).mean(2)
    error = np.sqrt(last.var(1, ddof=1).sum() / SWEEPS_PER_WINDOW)
    return bool(last[1].mean() - last[0].mean() <= error)


class GibbsChain:
    """A batch and the means to draw it anew, block by block."""

    def __init__(self, problem: Problem) -> None:
        candidates, device = problem.candidates, problem.device
        self._problem = problem
        self._rank_B = identity_rank_on(device, candidates.uid, candidates.dataset_index)
        self._log_prior_B = problem.log_prior()
        self._like_BB = like_matrix(problem)
        self._score_B = torch.zeros(len(candidates), dtype=torch.float64, device=device)
        self._perturbed_B = self._log_prior_B + problem.noise(1)
        start = Rounds(problem).draw(self._score_B, problem.spec.b).index
        self._sweep = min(NUM_BLOCKS, problem.spec.b)
        self._blocks = deque(torch.split(start, chunk_sizes(problem.spec.b, self._sweep)))
        self._set = changing_set(problem)
        self._set.add(start)

    def steps(self) -> Iterator[GibbsStep]:
        """Yield the start, and the batch after every iteration until it is flat or `num_iterations` are done."""
        criterion = [self._set.criterion()]
        yield self._step(0, criterion[0])
        for iteration in range(1, self._problem.spec.num_iterations + 1):
            self._redraw(iteration)
            criterion.append(self._set.criterion())
            yield self._step(iteration, criterion[-1])
            if iteration % self._sweep == 0 and is_flat(criterion[1:], sweep=self._sweep):
                return

    def selection(self) -> Selection:
        """Return the batch as it is."""
        members_b = torch.cat(list(self._blocks))
        round_B = torch.full_like(self._score_B, -1, dtype=torch.int32)
        round_B[members_b] = 1
        excluded_B = ~self._allowed_beside(members_b) & (round_B == -1)
        return Selection(
            chosen_index=members_b.numpy(force=True),
            round=round_B.numpy(force=True),
            score=self._score_B.numpy(force=True),
            perturbed=self._perturbed_B.masked_fill(excluded_B, -torch.inf).numpy(force=True),
        )

    def _redraw(self, iteration: int) -> None:
        spec = self._problem.spec
        old = self._blocks.popleft()
        self._set.remove(old)
        rest = torch.cat([*self._blocks, old[:0]])
        score_B = self._set.rise()
        weight_B = score_B * spec.gain + self._log_prior_B
        if spec.sampling == "gumbel":
            weight_B += self._problem.noise(1 + iteration)
        new = self._drawn(weight_B, len(old), free=self._allowed_beside(rest))
        is_open_B = torch.ones_like(self._rank_B, dtype=torch.bool)
        is_open_B[rest] = False
        self._score_B = torch.where(is_open_B, score_B, self._score_B)
        self._perturbed_B = torch.where(is_open_B, weight_B, self._perturbed_B)
        self._set.add(old if new is None else new)
        self._blocks.append(old if new is None else new)

    def _allowed_beside(self, rest: Int[Tensor, " r"]) -> Bool[Tensor, " B"]:
        """Return which candidates may join the rest: not in it, not excluded, and like none of it."""
        allowed_B = self._log_prior_B > -torch.inf
        allowed_B[rest] = False
        return allowed_B if self._like_BB is None else allowed_B & ~self._like_BB[rest].any(0)

    def _drawn(self, weight_B: Float64[Tensor, " B"], n: int, *, free: Bool[Tensor, " B"]) -> Int[Tensor, " n"] | None:
        """Return the n largest of the free, walking past those like an earlier one; None where fewer are left."""
        new = torch.empty(0, dtype=torch.int64, device=weight_B.device)
        while len(new) < n:
            proposed = draw_largest(weight_B, n - len(new), rank=self._rank_B, free=free)
            if len(new) + len(proposed) < n:
                return None
            if self._like_BB is not None:
                proposed = proposed[walk(self._like_BB[proposed[:, None], proposed])]
                free = free & ~self._like_BB[proposed].any(0)
            free[proposed] = False
            new = torch.cat([new, proposed])
        return new

    def _step(self, iteration: int, criterion: float) -> GibbsStep:
        return GibbsStep(iteration, torch.cat(list(self._blocks)).numpy(force=True), criterion)
