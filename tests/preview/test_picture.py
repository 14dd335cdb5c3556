"""The picture: well-formed, its numbers those of the JSON, its points where the axes say."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest

from superbatch_server.preview.curves import measure
from superbatch_server.preview.document import document
from superbatch_server.preview.drawing import PLOT_HEIGHT, round_ticks
from superbatch_server.preview.findings import Findings, find
from superbatch_server.preview.picture import picture, value_text
from superbatch_server.preview.plan import Plan
from tests.preview.made import clustered_sample, hand_sample

SVG = "{http://www.w3.org/2000/svg}"
SAMPLE = clustered_sample()


@pytest.fixture(scope="module")
def found() -> Findings:
    plan = Plan(b=32, chunks=[1, 4, 8], num_chunks=4, num_seeds=2, num_iterations=30)
    return find(measure(SAMPLE, plan, on_progress=lambda *_: None))


def drawn(findings: Findings) -> Element:
    return ElementTree.fromstring(picture(SAMPLE, findings))


def texts(root: Element, style: str | None = None) -> list[str]:
    return [str(text.text) for text in root.iter(f"{SVG}text") if style is None or text.get("class") == style]


def heights(root: Element, style: str) -> Iterator[float]:
    return (float(circle.attrib["cy"]) for circle in root.iter(f"{SVG}circle") if circle.get("class") == style)


def test_the_values_beside_the_points_are_those_of_the_document(found: Findings) -> None:
    held = document(SAMPLE, found)
    points = [*held["chunks"]["points"], *held["ratios"]["points"], *held["ratios"]["independent_points"][1:]]  # type: ignore[index, call-overload]
    assert texts(drawn(found), "value") == [value_text(point["share"]["mean"]) for point in points]  # type: ignore[index, call-overload]


def test_points_stand_where_the_values_are(found: Findings) -> None:
    over_N = [float(point.share.mean) for point in found.over_N.points if point.share]
    over_f = [float(point.share.mean) for point in found.over_f.points if point.share]
    y = list(heights(drawn(found), "main"))
    for shares, of_chart in ((over_N, y[: len(over_N)]), (over_f, y[len(over_N) :])):
        assert len(shares) == len(of_chart)
        slope = np.diff(of_chart) / np.diff(shares)
        # Heights are written with two digits, so a slope of some 100 units is good to 1%.
        assert slope == pytest.approx(slope[0], rel=0.01)
        assert slope[0] < 0


def test_both_axes_are_one_scale(found: Findings) -> None:
    root = drawn(found)
    shown = texts(root)
    zero, one = (fmean_of(values) for values in (found.over_N.zero, found.over_N.one))
    assert shown[shown.index("share of Gibbs") + 1] == "nats per pair"
    assert value_text(one, span=one - zero) in shown
    assert value_text(zero, span=one - zero) in shown


def fmean_of(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def test_the_title_is_the_finding_and_the_units_are_written(found: Findings) -> None:
    root = drawn(found)
    assert root.findtext(f"{SVG}title") == found.chunks
    page = " ".join(texts(root))
    assert found.chunks in page
    assert found.ratios in page
    for said in ("0 = N = 1, independent selection; 1 = Gibbs.", "0 = f = 0, a uniform batch; 1 = f = 0.5 with N = 4."):
        assert said in page
    assert "Bars: lowest and highest of 2 seeds." in page


def test_nothing_lies_outside_of_the_picture(found: Findings) -> None:
    root = drawn(found)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for mark in root.iter(f"{SVG}text"):
        # A character of 11 px is at most 8 px wide in any sans-serif face.
        length = 6.5 * len(str(mark.text)) * (1.2 if mark.get("class") == "title" else 1.0)
        start = float(mark.attrib["x"]) - {"start": 0.0, "middle": 0.5, "end": 1.0}[mark.attrib["text-anchor"]] * length
        assert start > -8
        assert start + length < width + 24, mark.text
        assert 0 < float(mark.attrib["y"]) < height
    for y in (*heights(root, "main"), *heights(root, "second")):
        assert 0 < y < height


def test_a_curve_without_a_unit_is_drawn_in_nats() -> None:
    # Rows that do not interact: every N and Gibbs find the same number of the learnable ones.
    plan = Plan(b=10, chunks=[1, 5], num_chunks=5, num_seeds=2, gain=1e6, num_iterations=40)
    findings = find(measure(hand_sample(100), plan, on_progress=lambda *_: None))
    assert not findings.over_N.has_unit
    held = document(SAMPLE, findings)
    assert [point["share"] for point in held["chunks"]["points"]] == [None, None]  # type: ignore[index, call-overload]
    values = texts(drawn(findings), "value")
    assert values[:2] == [value_text(point["learnability_mean"]) for point in held["chunks"]["points"]]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.1, [0, 0.25, 0.5, 0.75, 1.0, 1.25]),
        (0.0, 2.2, [0, 0.5, 1, 1.5, 2, 2.5]),
        (-3.0, 41.0, [-20, 0, 20, 40, 60]),
        (5.0, 5.0, [5, 5.1]),
        (0.0, 0.0, [0, 0.1]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, ticks: list[float]) -> None:
    found = round_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == ticks


def test_a_plot_is_as_high_as_it_says(found: Findings) -> None:
    grid = [float(line.attrib["y1"]) for line in drawn(found).iter(f"{SVG}line") if line.get("class") == "grid"]
    first_chart = grid[: len(round_ticks(0.0, 1.1 * max(1.0, *(p.share.high for p in found.over_N.points if p.share))))]
    assert max(first_chart) - min(first_chart) == pytest.approx(PLOT_HEIGHT)
