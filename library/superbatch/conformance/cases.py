"""Which cases are run: sizes before and after a resume, how the first start ends, and what goes wrong meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from superbatch.conformance.covering import pairwise_cases
from superbatch.conformance.faults import Fault
from superbatch.conformance.records import Leg
from superbatch.formats.errors import InvalidInput

Ending = Literal["kill", "stop"]

PAIRWISE_FAULTS = (
    Fault.MISSING_SHARD,
    Fault.SLOW_SERVER,
    Fault.RESTARTED_SERVER,
    Fault.REWOUND_TRAINER,
    Fault.CORRUPT_PICTURE,
)
"""Crossed with all sizes."""

SINGLE_FAULTS = (
    Fault.NONE,
    Fault.BUSY_SERVER,
    Fault.DAMAGED_LIST,
    Fault.LOST_SHARD,
    Fault.LOST_LIST,
    Fault.WITHDRAWN_BATCH,
    Fault.OTHER_JOB,
    Fault.OTHER_HISTORY,
    Fault.BEHIND_RETENTION,
    Fault.WORLD_SIZE,
)
"""Once each: what they do does not depend on the sizes."""

SETS = ("quick", "pairwise", "single", "full")
_MIN_B = 16


@dataclass(frozen=True, slots=True)
class Case:
    """One case: a first start that ends early, and a second one that goes on to the end of the log.

    first, second: sizes of the two starts.
    ending: how the first one ends: killed with signal 9 after a step and before its state is saved, or told to stop.
    at_step: after how many steps. A fault that stops the loader by itself takes the place of both.
    """

    fault: Fault
    first: Leg
    second: Leg
    ending: Ending
    at_step: int

    def __str__(self) -> str:
        return f"{self.fault}: {self.first}; {self.ending} at {self.at_step}; then {self.second}"


def sample_batch_size(world_sizes: Sequence[int], accumulations: Sequence[int]) -> int:
    """Return the smallest b of at least 16 rows that every world size and accumulation divides."""
    step = math.lcm(*(size * parts for size in world_sizes for parts in accumulations))
    return step * -(-_MIN_B // step)


def cases_of(
    which: str, *, world_sizes: Sequence[int], workers: Sequence[int], accumulations: Sequence[int], num_steps: int
) -> list[Case]:
    """Return the cases of a set.

    Args:
        which: quick, two cases; pairwise, a covering set of sizes, endings and PAIRWISE_FAULTS; single, one case for
            each of SINGLE_FAULTS; full, both.
        world_sizes, workers, accumulations: the values of each.
        num_steps: batches of the log; the first start ends after the late shard came in, before three fourths of it.
    Raises:
        InvalidInput: another set.
    """
    ends = range(num_steps // 3 + 1, 1 + 3 * num_steps // 4)
    if which == "quick":
        sizes = (max(world_sizes), max(workers), max(accumulations)), (min(world_sizes), min(workers), 1)
        big, small = Leg(*sizes[0]), Leg(*sizes[1])
        return [
            Case(Fault.BUSY_SERVER, big, small, "kill", num_steps // 2),
            Case(Fault.CORRUPT_PICTURE, big, small, "stop", num_steps // 3),
        ]
    if which not in SETS:
        raise InvalidInput(f"a set of cases is one of {', '.join(SETS)}; got {which!r}.")
    cases: list[Case] = []
    if which in ("pairwise", "full"):
        cases += _pairwise(world_sizes, workers, accumulations, ends)
    if which in ("single", "full"):
        b = sample_batch_size(world_sizes, accumulations)
        cases += [_single(fault, world_sizes, workers, num_steps, b=b) for fault in SINGLE_FAULTS]
    return cases


def _pairwise(
    world_sizes: Sequence[int], workers: Sequence[int], accumulations: Sequence[int], ends: range
) -> list[Case]:
    factors: dict[str, Sequence[object]] = {
        "fault": PAIRWISE_FAULTS,
        "world_size": world_sizes,
        "workers": workers,
        "accumulation": accumulations,
        "ending": ("kill", "stop"),
        "next_world_size": world_sizes,
        "next_workers": workers,
        "next_accumulation": accumulations,
    }
    found = pairwise_cases(factors)
    return [
        Case(
            fault=Fault(cast("str", each["fault"])),
            first=_leg(each["world_size"], each["workers"], each["accumulation"]),
            second=_leg(each["next_world_size"], each["next_workers"], each["next_accumulation"]),
            ending=cast("Ending", each["ending"]),
            at_step=ends[position * (len(ends) - 1) // max(1, len(found) - 1)],
        )
        for position, each in enumerate(found)
    ]


def _single(fault: Fault, world_sizes: Sequence[int], workers: Sequence[int], num_steps: int, *, b: int) -> Case:
    leg = Leg(min(2, max(world_sizes)), workers[0], 1)
    if fault is Fault.WORLD_SIZE:
        indivisible = next(parts for parts in range(3, b + 2) if b % (leg.world_size * parts))
        leg = Leg(leg.world_size, leg.num_workers, indivisible)
    return Case(fault, leg, Leg(max(world_sizes), max(workers), 1), "kill", num_steps // 2)


def _leg(world_size: object, num_workers: object, accumulation: object) -> Leg:
    return Leg(cast("int", world_size), cast("int", num_workers), cast("int", accumulation))
