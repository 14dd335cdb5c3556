"""Small charts as SVG, one below the other, 360 units wide so that they can be read on a phone.

Colours follow the reader's light or dark setting. All text is plain SVG text, so that it can be searched and copied.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

WIDTH = 360
LEFT, RIGHT = 44.0, 306.0
PLOT_HEIGHT = 150.0
LINE_HEIGHT = 15.0
TITLE_CHARACTERS, NOTE_CHARACTERS = 44, 58

Style = Literal["main", "second", "quiet"]

_STYLE_SHEET = """
.ground{fill:#fff}text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#596272}
.title{font-size:13px;font-weight:600;fill:#1a2029}.value{fill:#1a2029;stroke:#fff;stroke-width:3px;paint-order:stroke}.grid{stroke:#e2e6eb}.one{stroke:#596272}
.main{stroke:#2f5fd0;fill:#2f5fd0}.second{stroke:#8f5a00;fill:#8f5a00}.quiet{stroke:#788494;fill:#788494}path{fill:none!important;stroke-width:1.8}
path.second{stroke-dasharray:5 3}path.quiet{stroke-dasharray:2 2}.spread{stroke-width:1.2}circle{stroke:none}
@media(prefers-color-scheme:dark){.ground{fill:#191d24}text{fill:#99a3b2}.title,.value{fill:#e4e8ee}.value{stroke:#191d24}
.grid{stroke:#2a303a}.one{stroke:#99a3b2}.main{stroke:#86aaff;fill:#86aaff}.second{stroke:#e0ab52;fill:#e0ab52}}
"""


@dataclass(frozen=True)
class Point:
    """A value with its range; `place` is where on the x axis, from 0 to 1. `text` is written beside it."""

    place: float
    mean: float
    low: float
    high: float
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points joined by a line; `label` is shown in the legend, the points' texts above or below them."""

    label: str
    style: Style
    points: Sequence[Point]
    texts: Literal["above", "below"] = "above"


@dataclass(frozen=True)
class Tick:
    """A label on an axis, at a value of y or at a place of x; `far` is written on the right-hand axis, or below."""

    at: float
    text: str
    far: str = ""


@dataclass(frozen=True)
class Chart:
    """One chart. `one` is a value to draw a dashed line at, with its label; notes stand below the drawing."""

    title: str
    y_name: str
    y_far_name: str
    x_name: str
    y_ticks: Sequence[Tick]
    x_ticks: Sequence[Tick]
    series: Sequence[Series]
    one: tuple[float, str] | None
    notes: Sequence[str]

    @property
    def y_range(self) -> tuple[float, float]:
        """Return the lowest and highest y of the drawing: the outermost ticks."""
        return self.y_ticks[0].at, self.y_ticks[-1].at


def draw(charts: Sequence[Chart], *, title: str, notes: Sequence[str]) -> str:
    """Return the SVG of all charts, and `notes` below them."""
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-labelledby": "name"})
    SubElement(root, "title", {"id": "name"}).text = title
    SubElement(root, "style").text = _STYLE_SHEET
    SubElement(root, "rect", {"class": "ground", "width": "100%", "height": "100%"})
    top = 8.0
    for chart in charts:
        top = _chart(root, chart, top) + 22
    bottom = _lines(root, notes, top - 8, characters=NOTE_CHARACTERS)
    height = math.ceil(bottom + 8)
    root.attrib |= {"viewBox": f"0 0 {WIDTH} {height}", "width": str(2 * WIDTH), "height": str(2 * height)}
    root.set("style", "max-width:100%;height:auto")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def round_ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Return evenly spaced round values, at most `most`, the outermost enclosing [low, high]."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        first, last = math.floor(low / (step * factor) + 1e-9), math.ceil(high / (step * factor) - 1e-9)
        if last - first < most:
            return [round(step * factor * i, 12) for i in range(first, max(last, first + 1) + 1)]
    raise AssertionError("a step of 50 always fits")


def _chart(root: Element, chart: Chart, top: float) -> float:
    """Draw one chart from `top` down; return where it ends."""
    top = _lines(root, [chart.title], top, characters=TITLE_CHARACTERS, style="title") + 4
    top = _legend(root, chart.series, top)
    _text(root, chart.y_name, 8, top + 11)
    _text(root, chart.y_far_name, WIDTH - 8, top + 11, anchor="end")
    plot_top = top + 24
    _axes(root, chart, plot_top)
    if chart.one is not None:
        y = _y(chart, plot_top, chart.one[0])
        _line(root, (LEFT, y), (RIGHT, y), "one", dash="4 3")
        _text(root, chart.one[1], LEFT + 4, y - 4 if chart.y_far_name else y + 13)
    for series in chart.series:
        _draw_series(root, chart, series, plot_top)
    bottom = plot_top + PLOT_HEIGHT + (30 if any(tick.far for tick in chart.x_ticks) else 16)
    _text(root, chart.x_name, (LEFT + RIGHT) / 2, bottom + 12, anchor="middle")
    return _lines(root, chart.notes, bottom + 18, characters=NOTE_CHARACTERS)


def _axes(root: Element, chart: Chart, plot_top: float) -> None:
    for tick in chart.y_ticks:
        y = _y(chart, plot_top, tick.at)
        _line(root, (LEFT, y), (RIGHT, y), "grid")
        _text(root, tick.text, LEFT - 6, y + 4, anchor="end")
        _text(root, tick.far, RIGHT + 6, y + 4)
    for tick in chart.x_ticks:
        _text(root, tick.text, _x(tick.at), plot_top + PLOT_HEIGHT + 14, anchor="middle")
        _text(root, tick.far, _x(tick.at), plot_top + PLOT_HEIGHT + 27, anchor="middle")


def _draw_series(root: Element, chart: Chart, series: Series, plot_top: float) -> None:
    places = [(_x(point.place), _y(chart, plot_top, point.mean)) for point in series.points]
    path = "M" + "L".join(f"{x:.1f} {y:.2f}" for x, y in places)
    SubElement(root, "path", {"class": series.style, "d": path})
    for (x, y), point in zip(places, series.points, strict=True):
        high_y, low_y = (_y(chart, plot_top, value) for value in (point.high, point.low))
        _line(root, (x, high_y), (x, low_y), f"{series.style} spread")
        SubElement(root, "circle", {"class": series.style, "cx": f"{x:.1f}", "cy": f"{y:.2f}", "r": "3"})
        if point.text:
            text_y = high_y - 6 if series.texts == "above" else low_y + 14
            _text(root, point.text, x, text_y, anchor="middle", style="value")


def _legend(root: Element, series: Sequence[Series], top: float) -> float:
    if len(series) < 2:
        return top
    x = 8.0
    for one in series:
        SubElement(root, "path", {"class": one.style, "d": f"M{x:g} {top + 8:g}h18"})
        _text(root, one.label, x + 23, top + 12)
        x += 36 + 6.2 * len(one.label)
    return top + 18


def _lines(root: Element, paragraphs: Sequence[str], top: float, *, characters: int, style: str = "") -> float:
    for paragraph in paragraphs:
        for line in textwrap.wrap(paragraph, characters):
            _text(root, line, 8, top + 12, style=style)
            top += LINE_HEIGHT if not style else LINE_HEIGHT + 2
    return top


def _x(place: float) -> float:
    margin = 16.0
    return LEFT + margin + (RIGHT - LEFT - 2 * margin) * place


def _y(chart: Chart, plot_top: float, value: float) -> float:
    low, high = chart.y_range
    return plot_top + PLOT_HEIGHT * (high - value) / (high - low)


def _line(root: Element, start: tuple[float, float], stop: tuple[float, float], style: str, *, dash: str = "") -> None:
    (x1, y1), (x2, y2) = start, stop
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.2f}", "x2": f"{x2:.1f}", "y2": f"{y2:.2f}"}
    SubElement(root, "line", {"class": style, **places, **({"stroke-dasharray": dash} if dash else {})})


def _text(root: Element, text: str, x: float, y: float, *, anchor: str = "start", style: str = "") -> None:
    if text:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
        SubElement(root, "text", {**place, **({"class": style} if style else {})}).text = text
