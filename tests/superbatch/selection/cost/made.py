"""Runs to plan: small ones whose every figure is worked out by hand."""

from __future__ import annotations

from typing import Any

from superbatch.selection.cost import Rates, Workload
from superbatch.selection.cost.workload import Model

LEARNER = Model("learner", forward_flops=1000.0, width=8, checkpoint_bytes=700)
REFERENCE = Model("reference", forward_flops=500.0, width=4)

RATES = Rates(device="made", dtype="bf16", peak_flops_per_s=1000.0, watts=100.0, price_per_hour=2.0)


def workload(**changes: Any) -> Workload:
    """b = 10 of B = 50, R = 5, from 1,000 rows, for 40 batches."""
    fields: dict[str, Any] = {
        "learner": LEARNER,
        "reference": REFERENCE,
        "rows": 1000,
        "b": 10,
        "f": 0.8,
        "N": 5,
        "num_batches": 40,
        "example_bytes": 100.0,
    }
    return Workload(**{**fields, **changes})
