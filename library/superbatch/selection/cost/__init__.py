"""What a curated run costs, worked out before it starts: FLOPs, hours, kWh, money, bytes. Standard library only.

    plan(Workload(learner=..., reference=..., rows=128_000_000, b=32_768, f=0.8, ...), Rates(...))

`superbatch plan` is this on the command line; docs/planning.md says how the figures come about.
"""

from __future__ import annotations

from superbatch.selection.cost.errors import InvalidPlan
from superbatch.selection.cost.plan import Plan, plan
from superbatch.selection.cost.rates import Rates
from superbatch.selection.cost.workload import Workload

__all__ = ["InvalidPlan", "Plan", "Rates", "Workload", "plan"]
