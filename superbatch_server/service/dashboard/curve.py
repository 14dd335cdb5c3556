"""A value per batch, kept as at most MAX_BINS bins however many batches there are: what a chart is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

MAX_BINS = 300

Merge = Literal["mean", "max", "last", "sum"]
Span = tuple[int, int, float | None]
"""Batches [start, stop) and what stands for them; None where none of them has a value."""


@dataclass(slots=True)
class Curve:
    """Values of batches 0, 1, 2, ... in order. Law: every bin equals the merge of its batches' own values.

    Bins are columns of equal length: how many values, their sum, the largest, the last.
    """

    width: int = 1
    stop: int = 0
    """Batches seen, those without a value included."""
    counts: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    @staticmethod
    def of(values: Iterable[float]) -> Curve:
        """Return the curve of values that are all there."""
        curve = Curve()
        for value in values:
            curve.append(value)
        return curve

    def append(self, value: float) -> None:
        """Take in the next batch; a value that is not finite is none."""
        self.put(self.stop, value)

    def put(self, seq: int, value: float) -> None:
        """Take in batch `seq`, which is the newest or beyond; batches that are stepped over have no value."""
        assert seq >= self.stop - 1, "batches come in order"
        while seq >= self.width * MAX_BINS:
            self._double()
        while len(self.counts) <= seq // self.width:
            self._push(0, 0.0, -math.inf, math.nan)
        if math.isfinite(value):
            self.counts[-1] += 1
            self.totals[-1] += value
            self.largest[-1] = max(self.largest[-1], value)
            self.last[-1] = value
        self.stop = max(self.stop, seq + 1)

    @property
    def num_bins(self) -> int:
        """Bins in use, at most MAX_BINS."""
        return len(self.counts)

    def copy(self) -> Curve:
        """Return a curve that further batches do not change."""
        columns = (self.counts[:], self.totals[:], self.largest[:], self.last[:])
        return Curve(self.width, self.stop, *columns)

    def spans(self, merge: Merge, *, at_most: int = MAX_BINS) -> Iterator[Span]:
        """Yield at most `at_most` spans that cover [0, stop)."""
        factor = max(1, math.ceil(self.num_bins / at_most))
        for first in range(0, self.num_bins, factor):
            stop = min(first + factor, self.num_bins)
            yield first * self.width, min(stop * self.width, self.stop), self._merged(first, stop, merge)

    def _merged(self, first: int, stop: int, merge: Merge) -> float | None:
        count = sum(self.counts[first:stop])
        if not count:
            return None
        if merge == "max":
            return max(self.largest[first:stop])
        if merge == "last":
            return next(self.last[i] for i in range(stop - 1, first - 1, -1) if self.counts[i])
        total = math.fsum(self.totals[first:stop])
        return total / count if merge == "mean" else total

    def _push(self, count: int, total: float, largest: float, last: float) -> None:
        self.counts.append(count)
        self.totals.append(total)
        self.largest.append(largest)
        self.last.append(last)

    def _double(self) -> None:
        """Join every two bins."""
        pairs = [(i, min(i + 2, self.num_bins)) for i in range(0, self.num_bins, 2)]
        self.last = [self.last[j - 1] if self.counts[j - 1] else self.last[i] for i, j in pairs]
        self.largest = [max(self.largest[i:j]) for i, j in pairs]
        self.totals = [sum(self.totals[i:j]) for i, j in pairs]
        self.counts = [sum(self.counts[i:j]) for i, j in pairs]
        self.width *= 2


@dataclass(frozen=True, slots=True)
class Ratio:
    """A quotient of two curves of sums: a ratio of many batches is that of their sums, not the mean of their ratios."""

    part: Curve
    whole: Curve
    of: Callable[[float], float] = float
    """What is drawn of the quotient."""

    def spans(self, merge: Merge = "sum", *, at_most: int = MAX_BINS) -> Iterator[Span]:
        """Yield at most `at_most` spans; None where nothing was counted. `merge` is always the sum."""
        assert merge == "sum", "a ratio is that of sums"
        spans = zip(self.part.spans("sum", at_most=at_most), self.whole.spans("sum", at_most=at_most), strict=True)
        for (start, stop, part), (_, _, whole) in spans:
            yield start, stop, self.of(part / whole) if part is not None and whole else None
