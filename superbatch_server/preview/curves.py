"""The learnability of the batch that each selection of a plan chooses, per seed.

Letters: B candidates, b chosen, M rows of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from superbatch.formats.errors import InvalidInput
from superbatch.selection import Candidates, criterion_weights, select, set_loss
from superbatch_server.preview.brute_force import BruteForce, brute_force
from superbatch_server.preview.embedded import EmbeddedSample
from superbatch_server.preview.plan import Cell, Plan

if TYPE_CHECKING:
    from jaxtyping import Int

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Curves:
    """What was measured: per selection one value per seed, in nats per pair of the batch; `gibbs` is one run per seed,
    none where the plan has no iterations."""

    plan: Plan
    values: Mapping[Cell, tuple[float, ...]]
    gibbs: tuple[BruteForce, ...]

    @property
    def unit_of_chunks(self) -> tuple[float, ...]:
        """Return what counts as 1 on the curve over N: Gibbs, or without it the largest N."""
        if self.gibbs:
            return tuple(run.learnability for run in self.gibbs)
        return self.values[Cell(self.plan.f, max(self.plan.chunks))]


def measure(sample: EmbeddedSample, plan: Plan, *, on_progress: Progress) -> Curves:
    """Return the criterion of the batch that each selection of the plan chooses, per seed.

    Each seed draws its own candidates from the sample, the same ones for every N and for Gibbs, those of a smaller f
    among those of a larger. f = 0 has no choice: its batch is the first b drawn, a uniform batch.
    Args:
        sample: at least `plan.num_rows_needed` rows, with the models that the criterion reads.
        plan: which selections.
        on_progress: called with the share done, in [0, 1], and what is being done.
    Raises: InvalidInput, when the sample has too few rows.
    Source: JEST (arXiv:2406.17711), Fig. 2, middle and right.
    """
    if len(sample) < plan.num_rows_needed:
        b_that_fits = max(1, len(sample) * plan.b // plan.num_rows_needed)
        raise InvalidInput(
            f"b = {plan.b} at f up to {max(plan.f, *plan.ratios):g} needs {plan.num_rows_needed:,} rows; "
            f"got {len(sample):,} ({sample.source}). Lower b to {b_that_fits}, leave the largest f "
            "out with --ratios, or embed more rows."
        )
    found: dict[Cell, list[float]] = {cell: [] for cell in plan.cells()}
    gibbs: list[BruteForce] = []
    num_cells = len(found) + (1 if plan.num_iterations else 0)
    for seed in range(plan.num_seeds):
        order_M = _generator(seed, plan).permutation(len(sample))

        def show(cells_done: float, what: str, *, seed: int = seed) -> None:
            done = (seed + cells_done / num_cells) / plan.num_seeds
            on_progress(done, f"seed {seed + 1} of {plan.num_seeds}, {what}")

        for place, (cell, values) in enumerate(found.items()):
            show(place, f"f = {cell.f:g}, N = {cell.num_chunks}")
            candidates = sample.candidates(order_M[: plan.num_candidates(cell.f)])
            values.append(_chosen_criterion(candidates, plan, cell, seed=seed))
        if plan.num_iterations:
            candidates = sample.candidates(order_M[: plan.num_candidates(plan.f)])
            gibbs.append(
                brute_force(
                    candidates,
                    plan.gibbs_spec(seed=seed),
                    on_iteration=partial(_show_iteration, show=show, plan=plan, cells_done=len(found)),
                )
            )
    return Curves(plan, {cell: tuple(values) for cell, values in found.items()}, tuple(gibbs))


def batch_criterion(candidates: Candidates, chosen: Int[np.ndarray, " b"], plan: Plan) -> float:
    """Return the criterion of a batch as a set, in nats per pair: the sum of its signed losses, over its rows.

    For learnability: the loss of the batch under the learner minus that under the reference, divided by b.
    """
    weights = criterion_weights(plan.criterion)
    models = (candidates.learner, candidates.reference)
    used = [(weight, model) for weight, model in zip(weights, models, strict=True) if weight and model is not None]
    return sum(weight * set_loss(model.take(chosen), loss=plan.loss) for weight, model in used) / len(chosen)


def _chosen_criterion(candidates: Candidates, plan: Plan, cell: Cell, *, seed: int) -> float:
    if cell.f == 0:
        return batch_criterion(candidates, np.arange(plan.b), plan)
    chosen = select(candidates, plan.spec(cell, seed=seed)).chosen_index
    return batch_criterion(candidates, chosen, plan)


def _show_iteration(iteration: int, *, show: Callable[[float, str], None], plan: Plan, cells_done: int) -> None:
    show(cells_done + iteration / plan.num_iterations, f"Gibbs, iteration {iteration}")


def _generator(seed: int, plan: Plan) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(plan.b,))))
