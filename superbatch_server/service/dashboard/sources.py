"""The tables by source and by reason, as a page shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from superbatch_server.schemas.stats import SourceStats

LIFT_DOUBLINGS = 2.0
"""A bar of lift is full at four times, or a quarter of, the share in the pool."""


@dataclass(frozen=True, slots=True)
class Source:
    """One row of the table by source; `lift_offset` in [-1, 1] is the length of its bar, from the middle."""

    name: str
    stats: SourceStats
    lift_offset: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Quarantined rows of one reason; `share` is relative to the most frequent one."""

    name: str
    rows: int
    share: float


def by_source(stats: Mapping[str, SourceStats]) -> list[Source]:
    """Return the rows of the table by source."""
    return [Source(name, one, _lift_offset(one.lift)) for name, one in stats.items()]


def by_reason(quarantined: Mapping[str, int]) -> list[Reason]:
    """Return the quarantine, most frequent reason first."""
    counts = sorted(((name, rows) for name, rows in quarantined.items() if rows), key=lambda item: (-item[1], item[0]))
    return [Reason(name, rows, rows / counts[0][1]) for name, rows in counts]


def _lift_offset(lift: float | None) -> float:
    if lift is None:
        return 0.0
    doublings = math.log2(lift) if lift > 0 else -math.inf
    return max(-1.0, min(1.0, doublings / LIFT_DOUBLINGS))
