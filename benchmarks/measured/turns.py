"""Times of actions that take turns, so that another load on the machine disturbs each alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Taken:
    """Median seconds of one action: on the clock, and of processor time over all threads of this process."""

    wall_s: float
    cpu_s: float


def time_in_turn(
    actions: Mapping[str, Callable[[], object]], *, num_runs: int, warm_up: bool = True
) -> dict[str, Taken]:
    """Return the medians of each action over `num_runs` turns; a warm-up turn before is not counted."""
    taken: dict[str, list[Taken]] = {name: [] for name in actions}
    for run in range(-1 if warm_up else 0, num_runs):
        for name, action in actions.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            action()
            if run >= 0:
                taken[name].append(Taken(time.perf_counter() - wall_s, time.process_time() - cpu_s))
    return {
        name: Taken(statistics.median(one.wall_s for one in runs), statistics.median(one.cpu_s for one in runs))
        for name, runs in taken.items()
    }
