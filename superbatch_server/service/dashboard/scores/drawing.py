"""Charts of score shards as geometry, 1000 wide and 100 high; the templates draw it as SVG.

Both axes begin and end at a tick, so that tick labels stand evenly beside the drawing. A dot is a line without length:
its round end keeps its size and form however the drawing is stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from superbatch_server.service.dashboard.plot import HEIGHT, WIDTH, nice_ticks, number


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to [0, 1]; values beyond its ends lie on them."""

    label: str
    ticks: tuple[float, ...]
    is_whole: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies."""
        low, high = self.ticks[0], self.ticks[-1]
        return min(1.0, max(0.0, (value - low) / (high - low)))

    @property
    def tick_labels(self) -> tuple[str, ...]:
        """Text of the ticks, from low to high."""
        return tuple(f"{tick:,.0f}" if self.is_whole else number(tick) for tick in self.ticks)


def axis(label: str, values: Iterable[float]) -> Axis:
    """Return an axis with round ticks that encloses the values; there must be one."""
    listed = list(values)
    return Axis(label, tuple(nice_ticks(min(listed), max(listed))))


def count_axis(label: str, first: int, last: int) -> Axis:
    """Return an axis from `first` to `last`, positions or rounds; a tick between them may be rounded to its number."""
    span = max(1, last - first)
    gaps = next((gaps for gaps in (5, 4, 3, 2) if span % gaps == 0), 4 if span >= 20 else 1)
    return Axis(label, tuple(first + span * i / gaps for i in range(gaps + 1)), is_whole=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    style: str


@dataclass(frozen=True, slots=True)
class Stroke:
    """SVG path data."""

    path: str
    style: str


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: `style` is that of what it explains."""

    label: str
    style: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is inside the axes; `summary` is the same for who cannot see it."""

    x: Axis
    y: Axis
    summary: str
    cells: tuple[Cell, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    keys: tuple[Key, ...] = ()
    is_tall: bool = False

    @property
    def grid(self) -> tuple[float, ...]:
        """Heights of the lines at the ticks of y."""
        return tuple(round(HEIGHT * (1 - self.y.share(tick)), 2) for tick in self.y.ticks)


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers behind a drawing; the first column heads its row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A finding with its numbers, the drawing that shows it, and the table behind it."""

    id: str
    finding: str
    drawing: Drawing
    table: Table
    note: str = ""


def line(places: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return a path through the places; one place alone is a dot."""
    points = [_point(place, x, y) for place in places]
    if not points:
        return ""
    return f"M{'L'.join(points)}" + ("h0" if len(points) == 1 else "")


def dots(places: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return one path that draws a dot at every place."""
    return "".join(f"M{_point(place, x, y)}h0" for place in places)


def steps(values: Sequence[float], x_share: Sequence[float], y: Axis) -> str:
    """Return the outline of bars; `x_share` are the bounds between them, one more than there are values."""
    parts = []
    for i, value in enumerate(values):
        height = round(HEIGHT * (1 - y.share(value)), 2)
        start, stop = (round(WIDTH * share, 1) for share in x_share[i : i + 2])
        parts.append(f"{'M' if i == 0 else 'L'}{start:g} {height:g}H{stop:g}")
    return "".join(parts)


def text_of(value: float | None) -> str:
    """Return a number for a page, a dash for none."""
    return "–" if value is None else number(value)


def _point(place: tuple[float, float], x: Axis, y: Axis) -> str:
    return f"{round(WIDTH * x.share(place[0]), 1):g} {round(HEIGHT * (1 - y.share(place[1])), 2):g}"
