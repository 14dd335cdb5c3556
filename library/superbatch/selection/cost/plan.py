"""The plan of a run: what each policy costs against uniform training, and where curation breaks even.

With K steps of 3*F*b each, a uniform run costs U = 3*F*b*K. A policy whose step costs c of a uniform step and that
needs `once` before it begins costs once + c*K' * 3*F*b for K' steps. It breaks even at the K' that makes this U, so it
must reach the same quality in

    K / K' = c / (1 - once/U)

times fewer steps; where once >= U, no speed-up pays for a run this short. Speed-ups are on examples trained.

Letters: M rows, B candidates, b chosen, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superbatch.selection.cost.products import embedding_bytes, own_loss_flops, selection_flops, selection_passes
from superbatch.selection.cost.rates import Rates, Spend
from superbatch.selection.cost.steps import POLICIES, Policy, StepCost, step_cost
from superbatch.selection.cost.storage import (
    HELD_BYTES_PER_NUMBER,
    StepReads,
    Storage,
    step_reads,
    storage,
)
from superbatch.selection.cost.workload import Workload


@dataclass(frozen=True)
class PolicyPlan:
    """What one policy costs. Ratios are to uniform training for the same number of steps."""

    policy: Policy
    step: StepCost
    """The models' FLOPs of a step, in units of 3*F*b."""
    selection_step: float
    """The selection's own products of a step, in the same units."""
    selection_memory_bytes: int
    """Embeddings of one super-batch as the selection holds them."""
    selection_traffic_bytes: int
    """Bytes of them that one selection reads from memory, over all rounds."""
    pool_pass: Spend
    reference_training: Spend
    total: Spend
    """All steps and what is needed once."""
    of_uniform: float
    break_even_speed_up: float | None
    """How many times fewer steps than uniform make up for the whole cost; None = no number does."""
    storage: Storage
    reads: StepReads
    scoring_of_training: float
    """FLOPs of scoring for each FLOP of training: the devices that must score for each one that trains."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run under every policy, uniform first."""

    work: Workload
    rates: Rates
    policies: tuple[PolicyPlan, ...]
    trained_passes: float
    """How often the run goes through the pool, counting rows trained on."""
    candidate_passes: float
    """The same, counting candidates."""
    checkpoint_pushes: int
    checkpoint_bytes: int | None
    """Bytes of all pushed checkpoints; None = the size of one is not known."""


def plan(work: Workload, rates: Rates, *, policies: Sequence[Policy] = POLICIES) -> Plan:
    """Return what each policy costs.

    Args:
        work: the run; its length is that of the uniform one.
        rates: what a FLOP takes.
    Returns: one entry for each policy, in their order.
    Cost: arithmetic on a few numbers.
    """
    pushes = work.num_batches // work.checkpoint_every if work.checkpoint_every else 0
    size = work.learner.checkpoint_bytes
    return Plan(
        work=work,
        rates=rates,
        policies=tuple(_plan_of(policy, work, rates) for policy in policies),
        trained_passes=work.num_batches * work.b / work.rows,
        candidate_passes=work.num_batches * work.B / work.rows,
        checkpoint_pushes=pushes,
        checkpoint_bytes=None if size is None else pushes * size,
    )


def _plan_of(policy: Policy, work: Workload, rates: Rates) -> PolicyPlan:
    step = step_cost(
        policy,
        R=work.R,
        reference_cost=work.reference.forward_flops / work.learner.forward_flops,
        low_resolution=work.low_resolution,
    )
    widths = _widths(policy, work)
    memory = embedding_bytes(rows=work.B, widths=widths, bytes_per_number=HELD_BYTES_PER_NUMBER)
    own = _selection_flops(policy, work, widths) / work.uniform_step_flops
    pool_pass = work.rows * work.reference.forward_flops if policy.reference == "cached" else 0.0
    examples = work.reference_examples if policy.reference != "none" else 0
    training = 3 * work.reference.forward_flops * examples
    uniform = work.num_batches * work.uniform_step_flops
    total = pool_pass + training + (step.total + own) * uniform
    return PolicyPlan(
        policy=policy,
        step=step,
        selection_step=own,
        selection_memory_bytes=memory,
        selection_traffic_bytes=selection_passes(N=work.N, joint=policy.joint, loss=work.loss) * memory,
        pool_pass=rates.spend(pool_pass),
        reference_training=rates.spend(training),
        total=rates.spend(total),
        of_uniform=total / uniform,
        break_even_speed_up=break_even_speed_up(step.total + own, once=(pool_pass + training) / uniform),
        storage=storage(policy, work),
        reads=step_reads(policy, work),
        scoring_of_training=(step.scoring + step.reference) / step.training,
    )


def break_even_speed_up(step: float, *, once: float) -> float | None:
    """Return how many times fewer steps than uniform a policy may take to cost the same: step / (1 - once).

    Args:
        step: its cost for each uniform step.
        once: what it needs before the first step, relative to the whole uniform run.
    Returns: None where `once` alone costs as much as the uniform run.
    """
    return step / (1 - once) if once < 1 else None


def _widths(policy: Policy, work: Workload) -> list[int]:
    """Return D of each model that the criterion uses."""
    learner = [work.learner.width] if policy.scores_with_learner else []
    return learner + ([work.reference.width] if policy.reference != "none" else [])


def _selection_flops(policy: Policy, work: Workload, widths: Sequence[int]) -> int:
    flops = selection_flops(B=work.B, b=work.b, N=work.N, widths=widths, joint=policy.joint, loss=work.loss)
    return flops + (own_loss_flops(b=work.b, widths=widths) if policy.selected_by == "service" else 0)
