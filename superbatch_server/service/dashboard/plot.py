"""Charts as geometry: the templates draw it as SVG, so no markup is made here.

A plot is 1000 wide and 100 high, stretched to its place; x is a position in the log (seq), y grows upwards. Tick labels
are text beside the drawing, evenly spaced, so that they keep their size on a narrow screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from superbatch_server.service.dashboard.curve import MAX_BINS, Curve, Merge, Ratio, Span

WIDTH, HEIGHT = 1000.0, 100.0
MAX_POINTS = MAX_BINS
MAX_ROWS = 40
"""Rows of the table behind a chart."""
TICK_GAPS = 4

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One value per seq, from 0; NaN is a gap in the line. `merge` says what stands for many values at one place."""

    label: str
    style: str
    column: Sequence[float] | Curve | Ratio
    merge: Merge = "mean"
    is_step: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One drawn series: `path` is SVG path data, `newest` the last value as text."""

    label: str
    style: str
    path: str
    newest: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing: what it shows, lines, and tick labels (y from the top down, x from left to right)."""

    title: str
    summary: str
    lines: tuple[Line, ...]
    y_ticks: tuple[str, ...]
    x_ticks: tuple[str, ...]

    @property
    def grid_y(self) -> tuple[float, ...]:
        """Heights of the grid lines, one per y tick."""
        last = max(len(self.y_ticks) - 1, 1)
        return tuple(round(HEIGHT * i / last, 2) for i in range(len(self.y_ticks)))


def plot(
    title: str, series: Sequence[Series], *, is_count: bool, within: tuple[float, float] | None = None
) -> Plot | None:
    """Return the chart of `series` over all seqs, or None where none of them has a value.

    Counts are drawn from zero, with whole numbers on the axis; `within` is a range that the axis shows in any case.
    """
    binned = [spans_of(one) for one in series]
    stop_seq = max((bins[-1][1] for bins in binned if bins), default=0)
    values = [value for bins in binned for _, _, value in bins if value is not None]
    if not values:
        return None
    low, high = within or (0.0 if is_count else math.inf, -math.inf)
    ticks = nice_ticks(min(low, *values), max(high, *values), smallest_step=1.0 if is_count else 0.0)
    drawn = [_line(one, bins, stop_seq, ticks) for one, bins in zip(series, binned, strict=True)]
    return Plot(
        title=title,
        summary="; ".join(f"{line.label} newest {line.newest}" for line in drawn)
        + f"; all from {number(min(values))} to {number(max(values))}",
        lines=tuple(drawn),
        y_ticks=tuple(number(tick) for tick in reversed(ticks)),
        x_ticks=_x_ticks(stop_seq),
    )


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with the sentence that it proves, and the table behind it. `id` is unique on its page."""

    id: str
    finding: str
    plot: Plot
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def chart(
    chart_id: str,
    finding: str,
    title: str,
    series: Sequence[Series],
    *,
    is_count: bool,
    note: str = "",
    within: tuple[float, float] | None = None,
) -> Chart | None:
    """Return the chart of `series`, or None where none of them has a value."""
    drawn = plot(title, series, is_count=is_count, within=within)
    if drawn is None:
        return None
    told = [spans_of(one, at_most=MAX_ROWS) for one in series]
    longest = max(told, key=len)
    rows = tuple(
        (_batches(start, stop), *(_cell(spans, i) for spans in told)) for i, (start, stop, _) in enumerate(longest)
    )
    return Chart(chart_id, finding, drawn, ("Batches", *(one.label for one in series)), rows, note)


def nice_ticks(low: float, high: float, *, smallest_step: float = 0.0) -> list[float]:
    """Return evenly spaced round numbers, at most TICK_GAPS + 2 of them, that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    rough = max(span / TICK_GAPS, smallest_step)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Return a number as short as it can be read: 12,400; 85; 0.8; 0.0125; 3e-05."""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 1000 else f"{value:.3g}"


def spans_of(series: Series, *, at_most: int = MAX_POINTS) -> list[Span]:
    """Return what a series is drawn from, or told as in a table: at most `at_most` spans."""
    column = series.column if isinstance(series.column, Curve | Ratio) else Curve.of(series.column)
    return list(column.spans(series.merge, at_most=at_most))


def _line(series: Series, bins: Sequence[Span], stop_seq: int, ticks: Sequence[float]) -> Line:
    low, high = ticks[0], ticks[-1]
    draw = _step_path if series.is_step else _straight_path
    pieces: list[str] = []
    places: list[Place] = []
    end_x = 0.0
    for start, stop, value in [*bins, (0, 0, None)]:
        if value is not None:
            places.append((round(WIDTH * start / stop_seq, 1), round(HEIGHT * (high - value) / (high - low), 2)))
            end_x = round(WIDTH * stop / stop_seq, 1)
        elif places:
            pieces.append(draw(places, end_x))
            places = []
    newest = next((value for _, _, value in reversed(bins) if value is not None), None)
    return Line(series.label, series.style, " ".join(pieces), "none" if newest is None else number(newest))


def _batches(start: int, stop: int) -> str:
    return f"{start:,}" if stop - start == 1 else f"{start:,} to {stop - 1:,}"


def _cell(spans: Sequence[Span], i: int) -> str:
    value = spans[i][2] if i < len(spans) else None
    return "–" if value is None else number(value)


def _straight_path(places: Sequence[Place], end_x: float) -> str:
    """Join the places; a single one has no length and is drawn as wide as its batches."""
    points = [f"{x:g} {y:g}" for x, y in places]
    return f"M{'L'.join(points)}" + (f"H{end_x:g}" if len(points) == 1 else "")


def _step_path(places: Sequence[Place], end_x: float) -> str:
    (x0, y0), *rest = places
    return f"M{x0:g} {y0:g}" + "".join(f"H{x:g}V{y:g}" for x, y in rest) + f"H{end_x:g}"


def _x_ticks(stop_seq: int) -> tuple[str, ...]:
    seqs = sorted({0, stop_seq // 2, stop_seq - 1}) if stop_seq > 2 else range(stop_seq)
    return tuple(f"{seq:,}" for seq in seqs)
