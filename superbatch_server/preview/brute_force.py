"""The yardstick of the curves: how learnable a batch of these candidates gets by Gibbs sampling.

Letters: B candidates, b members of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from superbatch.selection import Candidates, SelectionSpec
from superbatch.selection.dispatch import opened_problem
from superbatch.selection.methods.gibbs import NUM_BLOCKS, SWEEPS_PER_WINDOW, GibbsChain, is_flat
from superbatch.selection.methods.peers import OneProcess


@dataclass(frozen=True)
class BruteForce:
    """Where a chain ended: nats per pair, the mean over its last 10 sweeps; whether it was flat when it stopped."""

    learnability: float
    num_iterations: int
    is_flat: bool


def brute_force(candidates: Candidates, spec: SelectionSpec, *, on_iteration: Callable[[int], None]) -> BruteForce:
    """Return what a Gibbs sampling of `spec` reaches.

    The batches of its last 10 sweeps are equally good samples, so their mean is taken: it is steadier than the last.
    Args:
        candidates: B rows, at most 16,384.
        spec: of method gibbs.
        on_iteration: called with the number of iterations done.
    Cost: memory B*B; see `methods.gibbs`.
    """
    sweep = min(NUM_BLOCKS, spec.b)
    criterion: list[float] = []
    with opened_problem(candidates, spec, noise=None, peers=OneProcess()) as problem:
        for step in GibbsChain(problem).steps():
            on_iteration(step.iteration)
            criterion.append(step.criterion)
    after_start = criterion[1:]
    stopped_early = len(after_start) < spec.num_iterations
    return BruteForce(
        learnability=fmean(after_start[-SWEEPS_PER_WINDOW * sweep :]) / spec.b,
        num_iterations=len(after_start),
        is_flat=stopped_early or is_flat(after_start, sweep=sweep),
    )
