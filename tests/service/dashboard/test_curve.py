"""A curve keeps a bounded number of bins, and every bin is exactly what its batches say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch_server.service.dashboard.curve import MAX_BINS, Curve, Merge, Ratio


def merged(values: list[float], merge: Merge) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    return {"mean": sum(known) / len(known), "max": max(known), "last": known[-1], "sum": sum(known)}[merge]


@pytest.mark.parametrize("merge", ["mean", "max", "last", "sum"])
@given(
    values=st.lists(st.sampled_from([math.nan, 0.0, 1.0, -2.5, 7.0]), max_size=4 * MAX_BINS + 3),
    at_most=st.sampled_from([MAX_BINS, 40, 1]),
)
def test_every_span_equals_the_merge_of_its_batches(merge: Merge, values: list[float], at_most: int) -> None:
    spans = list(Curve.of(values).spans(merge, at_most=at_most))
    assert len(spans) <= at_most
    assert [stop for _, stop, _ in spans[:-1]] == [start for start, _, _ in spans[1:]]
    assert (spans[0][0], spans[-1][1]) == (0, len(values)) if values else spans == []
    for start, stop, value in spans:
        assert value == pytest.approx(merged(values[start:stop], merge))


def test_a_million_batches_stay_small() -> None:
    curve = Curve.of(float(i) for i in range(1_000_000))
    assert curve.num_bins <= MAX_BINS
    assert list(curve.spans("last"))[-1][2] == 999_999


def test_a_copy_stays_as_it_is() -> None:
    curve = Curve.of([1.0, 2.0])
    copied = curve.copy()
    curve.append(3.0)
    assert (list(copied.spans("sum")), copied.stop) == ([(0, 1, 1.0), (1, 2, 2.0)], 2)


def test_a_ratio_is_that_of_sums() -> None:
    part, whole = Curve.of([1.0, 3.0, math.nan, 0.0]), Curve.of([2.0, 8.0, math.nan, 5.0])
    assert list(Ratio(part, whole).spans()) == [(0, 1, 0.5), (1, 2, 0.375), (2, 3, None), (3, 4, 0.0)]
    assert list(Ratio(part, whole, lambda share: 1 - share).spans(at_most=2)) == [(0, 2, 0.6), (2, 4, 1.0)]


def test_batches_that_are_stepped_over_have_no_value() -> None:
    curve = Curve()
    curve.put(3, 4.0)
    curve.put(6, 1.0)
    assert [value for _, _, value in curve.spans("sum")] == [None, None, None, 4.0, None, None, 1.0]
