"""A plan as one JSON object, for programs."""

from __future__ import annotations

from dataclasses import asdict

from superbatch.cli.plan_report import Assumed, assumptions
from superbatch.formats.canonical import JsonValue
from superbatch.selection.cost.plan import Plan, PolicyPlan


def plan_document(plan: Plan, assumed: Assumed) -> dict[str, JsonValue]:
    """Return the plan as JSON: every figure, unrounded, its unit in its name."""
    work = plan.work
    return {
        "learner": asdict(work.learner),
        "reference": asdict(work.reference),
        "run": {
            "rows": work.rows,
            "b": work.b,
            "B": work.B,
            "f": work.f,
            "R": work.R,
            "N": work.N,
            "loss": work.loss,
            "num_batches": work.num_batches,
            "reference_examples": work.reference_examples,
            "trained_passes": plan.trained_passes,
            "candidate_passes": plan.candidate_passes,
            "checkpoint_pushes": plan.checkpoint_pushes,
            "checkpoint_bytes": plan.checkpoint_bytes,
        },
        "rates": {**asdict(plan.rates), "currency": assumed.currency},
        "assumptions": list(assumptions(plan, assumed)),
        "policies": [_policy_document(found) for found in plan.policies],
    }


def _policy_document(found: PolicyPlan) -> dict[str, JsonValue]:
    return {
        "policy": found.policy.name,
        "meaning": found.policy.meaning,
        "step_of_uniform": found.step.total,
        "step_parts_of_uniform": asdict(found.step),
        "selection_step_of_uniform": found.selection_step,
        "selection_memory_bytes": found.selection_memory_bytes,
        "selection_traffic_bytes": found.selection_traffic_bytes,
        "pool_pass": asdict(found.pool_pass),
        "reference_training": asdict(found.reference_training),
        "total": asdict(found.total),
        "total_of_uniform": found.of_uniform,
        "break_even_speed_up": found.break_even_speed_up,
        "scoring_flops_of_training": found.scoring_of_training,
        "reads_per_step": asdict(found.reads),
        "storage": {**asdict(found.storage), "total_bytes": found.storage.total_bytes},
    }
