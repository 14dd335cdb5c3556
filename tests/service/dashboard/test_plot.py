"""Charts as geometry, by small cases typed by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from superbatch_server.service.dashboard.plot import MAX_POINTS, TICK_GAPS, Series, nice_ticks, number, plot


def test_a_line_goes_through_its_values() -> None:
    made = plot("t", [Series("s", "", [0.0, 10.0, 20.0, 40.0])], is_count=False)
    assert made is not None
    assert made.y_ticks == ("40", "30", "20", "10", "0")
    assert made.x_ticks == ("0", "2", "3")
    assert made.lines[0].path == "M0 100L250 75L500 50L750 0"
    assert made.lines[0].newest == "40"
    assert made.grid_y == (0.0, 25.0, 50.0, 75.0, 100.0)


def test_a_step_line_holds_each_value_to_the_next_batch() -> None:
    made = plot("t", [Series("s", "", [0.0, 0.0, 2.0, 4.0], is_step=True)], is_count=True)
    assert made is not None
    assert made.lines[0].path == "M0 100H250V100H500V50H750V0H1000"


def test_a_missing_value_is_a_gap() -> None:
    made = plot("t", [Series("s", "", [1.0, math.nan, 1.0, 2.0])], is_count=True)
    assert made is not None
    assert made.lines[0].path == "M0 50H250 M500 50L750 0"


def test_nothing_is_drawn_without_a_value() -> None:
    assert plot("t", [Series("s", "", [])], is_count=True) is None
    assert plot("t", [Series("s", "", [math.nan, math.nan])], is_count=True) is None


@pytest.mark.parametrize(("merge", "newest"), [("mean", "1.5"), ("max", "3"), ("last", "0")])
def test_many_batches_are_merged_into_few_points(merge: str, newest: str) -> None:
    column = [3.0, 0.0] * MAX_POINTS
    made = plot("t", [Series("s", "", column, merge=merge)], is_count=True)  # type: ignore[arg-type]
    assert made is not None
    assert made.lines[0].path.count("L") == MAX_POINTS - 1
    assert made.lines[0].newest == newest


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0), (-3, -3), (0.0101, 0.0102), (-0.4, 1.1), (0, 59), (1e-9, 1e9), (17, 23)]
)
def test_ticks_enclose_the_values_evenly(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    steps = {round(right - left, 9) for left, right in pairwise(ticks)}
    assert ticks[0] <= low <= high <= ticks[-1]
    assert len(steps) == 1
    assert 2 <= len(ticks) <= TICK_GAPS + 2


def test_counts_have_whole_ticks() -> None:
    assert nice_ticks(0, 2, smallest_step=1.0) == [0, 1, 2]
    assert nice_ticks(0, 0, smallest_step=1.0) == [0, 1]


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 12400, 85, 0.8, 0.01251, 3e-5)] == [
        "0", "12,400", "85", "0.8", "0.0125", "3e-05",
    ]  # fmt: skip
