"""What a cost model refuses.

InvalidInput (superbatch.formats.errors)
└── InvalidPlan    a size, a share or a price that no run can have
"""

from __future__ import annotations

from typing import ClassVar

from superbatch.formats.errors import InvalidInput


class InvalidPlan(InvalidInput):
    """A size, a share or a price that no run can have, or two of them that contradict each other."""

    code: ClassVar[str] = "invalid_plan"


def check(holds: bool, rule: str, got: float, hint: str) -> None:
    """Raise InvalidPlan unless a rule holds; comparisons with NaN do not hold."""
    if not holds:
        raise InvalidPlan(f"{rule}; got {got!r}. {hint}")
