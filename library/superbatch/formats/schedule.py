"""Schedules over seq, and the size of a super-batch: arithmetic that the service and the workers must share.

In a job spec a schedule is a plain value, or {"points": [[seq, value], ...], "between": "step" | "linear"}:
{"points": [[0, 0.5], [100, 0.8]], "between": "linear"} is 0.5 at seq 0, 0.65 at seq 50, and 0.8 from seq 100 on.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal, TypeVar, cast

from superbatch.formats.errors import InvalidInput

Between = Literal["step", "linear"]
ScheduleValue = TypeVar("ScheduleValue", float, str, tuple[float, ...])


@dataclass(frozen=True)
class Schedule(Generic[ScheduleValue]):
    """A value for every seq: piecewise constant (`step`) or piecewise linear between points.

    `points` start at seq 0 and increase; after the last point its value holds. A name (a criterion, a method) can
    only step; a tuple (the weights) is interpolated entry by entry.
    """

    points: tuple[tuple[int, ScheduleValue], ...]
    between: Between = "step"

    def __post_init__(self) -> None:
        seqs = [seq for seq, _ in self.points]
        if not seqs or seqs[0] != 0 or any(left >= right for left, right in pairwise(seqs)):
            raise InvalidInput(
                f"points of a schedule must start at seq 0 and increase; got seqs {seqs}. Sort them and begin at 0."
            )
        if self.between not in ("step", "linear"):
            raise InvalidInput(f"between must be 'step' or 'linear'; got {self.between!r}. Use 'step' to hold values.")
        if self.between == "linear" and any(isinstance(value, str) for _, value in self.points):
            raise InvalidInput(
                f"a schedule of names cannot be linear; got {[value for _, value in self.points]}. Use 'step'."
            )

    def at(self, seq: int) -> ScheduleValue:
        """Return the value at `seq`, which counts from 0."""
        if seq < 0:
            raise InvalidInput(f"seq must be at least 0; got {seq}. The first batch of a job is seq 0.")
        left = bisect_right(self.points, seq, key=lambda point: point[0]) - 1
        left_seq, left_value = self.points[left]
        if self.between == "step" or left + 1 == len(self.points):
            return left_value
        right_seq, right_value = self.points[left + 1]
        part = (seq - left_seq) / (right_seq - left_seq)
        if isinstance(left_value, tuple) and isinstance(right_value, tuple):
            pairs = zip(left_value, right_value, strict=True)
            return tuple(_between(start, stop, part) for start, stop in pairs)
        assert isinstance(left_value, float | int)
        assert isinstance(right_value, float | int)
        return _between(left_value, right_value, part)

    def turning_seqs(self, *, stop_seq: int) -> list[int]:
        """Return the seqs of [0, stop_seq) at which an extreme value can lie: the points, and the last seq."""
        return sorted({seq for seq, _ in self.points if seq < stop_seq} | {stop_seq - 1})


def parse_schedule(written: ScheduleValue | Mapping[str, object]) -> Schedule[ScheduleValue]:
    """Return the schedule that a job spec writes as a plain value or as {points, between}.

    Args:
        written: the field as read from JSON; a list of numbers counts as a tuple.
    Raises:
        InvalidInput: unknown or missing keys, points that do not start at 0 and increase, a linear schedule of names.
    """
    if not isinstance(written, Mapping):
        return Schedule(points=((0, cast("ScheduleValue", _as_value(written))),))
    if not {"points"} <= set(written) <= {"points", "between"}:
        raise InvalidInput(f"a schedule has the keys 'points' and 'between'; got {sorted(written)}. Drop the others.")
    points = cast("Sequence[tuple[int, ScheduleValue]]", written["points"])
    return Schedule(
        points=tuple((int(seq), cast("ScheduleValue", _as_value(value))) for seq, value in points),
        between=cast("Between", written.get("between", "step")),
    )


def _between(start: float, stop: float, part: float) -> float:
    return start + (stop - start) * part


def _as_value(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def super_batch_size(b: int, f: float) -> int:
    """Return B, the number of candidates from which b are kept at filter ratio f.

    B = floor(b / (1 - f) + 1/2) in fp64, as design.md section 1 fixes it: the same on every machine.

    Args:
        b: rows of a batch, at least 1.
        f: filter ratio in [0, 1), the share thrown away.
    Raises:
        InvalidInput: b or f out of range.
    """
    if b < 1:
        raise InvalidInput(f"b must be at least 1; got {b}. b counts the rows of one batch over all ranks.")
    if not 0.0 <= f < 1.0:
        raise InvalidInput(f"f must be in [0, 1); got {f}. Use 0.8 to keep one in five.")
    return math.floor(b / (1.0 - f) + 0.5)


def largest_super_batch(b: int, f: Schedule[float], num_batches: int) -> int:
    """Return the largest B over seq 0 .. num_batches - 1.

    B rises with f, and a schedule has its extremes at its points or at the end of the range, so only those are read.

    Raises:
        InvalidInput: num_batches below 1, or b or some f out of range.
    """
    if num_batches < 1:
        raise InvalidInput(f"num_batches must be at least 1; got {num_batches}. Ask for one batch or more.")
    return max(super_batch_size(b, f.at(seq)) for seq in f.turning_seqs(stop_seq=num_batches))
