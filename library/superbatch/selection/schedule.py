"""The scheduled parameters of a selection, resolved at a seq. No torch here: a planner may import this alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from superbatch.formats.schedule import Schedule, parse_schedule, super_batch_size

Written = Mapping[str, object]


@dataclass(frozen=True)
class ScheduledParameters:
    """What a schedule row records of the selection at one seq."""

    f: float
    gain: float
    weights: tuple[float, float]
    criterion: str
    method: str

    def super_batch_size(self, b: int) -> int:
        """Return B for b wanted rows."""
        return super_batch_size(b, self.f)


@dataclass(frozen=True)
class SelectionSchedule:
    """The five fields of a job's selection that may change over seq."""

    f: Schedule[float]
    gain: Schedule[float]
    weights: Schedule[tuple[float, ...]]
    criterion: Schedule[str]
    method: Schedule[str]

    @classmethod
    def parse(
        cls,
        *,
        f: float | Written = 0.8,
        gain: float | Written = 1.0,
        weights: tuple[float, float] | Written = (1.0, 1.0),
        criterion: str | Written = "learnability",
        method: str | Written = "joint",
    ) -> SelectionSchedule:
        """Return the schedules of a job spec, each field a plain value or {points, between}.

        Raises:
            InvalidInput: a field that `superbatch.formats.schedule.parse_schedule` refuses.
        """
        return cls(
            f=parse_schedule(f),
            gain=parse_schedule(gain),
            weights=parse_schedule(weights),
            criterion=parse_schedule(criterion),
            method=parse_schedule(method),
        )

    def at(self, seq: int) -> ScheduledParameters:
        """Return every scheduled parameter at `seq`."""
        learner_weight, reference_weight = self.weights.at(seq)
        return ScheduledParameters(
            f=self.f.at(seq),
            gain=self.gain.at(seq),
            weights=(learner_weight, reference_weight),
            criterion=self.criterion.at(seq),
            method=self.method.at(seq),
        )
