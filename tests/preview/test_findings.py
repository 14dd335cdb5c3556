"""Shares, sentences and the recommended N, on curves typed by hand."""

from __future__ import annotations

import pytest

from superbatch_server.preview.brute_force import BruteForce
from superbatch_server.preview.curves import Curves
from superbatch_server.preview.findings import Share, find, share
from superbatch_server.preview.plan import Cell, Plan

Values = tuple[float, ...]


def curves(
    over_N: dict[int, Values],
    *,
    gibbs: Values | None = (10.0, 12.0),
    uniform: Values = (0.0, 1.0),
    half: Values = (4.0, 4.0),
    best: Values = (8.0, 9.0),
    is_flat: tuple[bool, ...] = (True, True),
) -> Curves:
    """Curves over N at f = 0.8, and over f at N = 2."""
    plan = Plan(b=64, num_chunks=2, chunks=list(over_N), ratios=[0.9], num_seeds=2, num_iterations=5 if gibbs else 0)
    values = {cell: uniform for cell in plan.cells() if cell.f == 0}
    values |= {cell: half for cell in plan.cells() if cell.f == 0.5}
    values |= {cell: best for cell in plan.cells() if cell.f == 0.9}
    values |= {Cell(0.5, 1): (2.0, 2.0), Cell(0.9, 1): (4.0, 5.0)}
    values |= {Cell(0.8, N): of_N for N, of_N in over_N.items()}
    return Curves(
        plan, values, tuple(BruteForce(value, 5, flat) for value, flat in zip(gibbs or (), is_flat, strict=False))
    )


def test_a_share_by_hand() -> None:
    # Gains 2 of 4 and 6 of 8: the ratio of the means is 8 / 12.
    assert share((3.0, 7.0), zero=(1.0, 1.0), one=(5.0, 9.0)) == Share(pytest.approx(8 / 12), 0.5, 0.75)


def test_shares_over_n_are_of_what_gibbs_gains_over_n_1() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (8.0, 10.0), 4: (9.9, 12.0), 8: (10.0, 12.0)}))
    assert [point.share for point in found.over_N.points] == [
        Share(0.0, 0.0, 0.0),
        Share(0.5, 0.5, 0.5),
        Share(pytest.approx(7.9 / 8), pytest.approx(3.9 / 4), 1.0),
        Share(1.0, 1.0, 1.0),
    ]
    assert found.recommended_num_chunks == 4
    assert found.chunks == "4 chunks reach 0.99 of Gibbs; more would gain little"
    assert found.recommendation.startswith("Use N = 4, the smallest N that reaches 0.95")


def test_where_the_largest_n_is_the_best_it_says_that_no_larger_one_was_measured() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (7.0, 9.0), 4: (8.0, 10.0)}))
    assert found.chunks == "4 chunks reach 0.50 of Gibbs, the most of all N measured"
    assert found.recommendation == "Use N = 4; a larger N was not measured (--chunks)."


def test_where_gibbs_is_not_above_n_1_in_every_seed_there_are_no_shares() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (6.1, 8.1)}, gibbs=(6.1, 7.9)))
    assert [point.share for point in found.over_N.points] == [None, None]
    # The best N gains 0.1 more than N = 1, which gains 6.5 over a uniform batch.
    assert found.chunks == "N hardly matters here: the best N gains 1.5% more than N = 1"
    assert found.recommended_num_chunks == 2


def test_where_gibbs_gains_less_than_a_hundredth_there_are_no_shares() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (6.0, 8.0)}, gibbs=(6.05, 8.05)))
    assert not found.over_N.has_unit


def test_where_n_matters_and_gibbs_falls_short_the_best_n_is_named() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (8.0, 9.0), 4: (9.0, 10.0)}, gibbs=(5.0, 7.0)))
    assert found.recommended_num_chunks == 4
    # N = 4 gains 2.5 more than N = 1, which gains 6.5.
    assert found.chunks == "On N: the best N gains 38.5% more than N = 1; Gibbs gains less"


def test_without_gibbs_the_largest_n_is_the_unit() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (8.0, 10.0), 4: (10.0, 12.0)}, gibbs=None))
    assert found.over_N.share_at(2) == 0.5
    assert found.chunks == "4 chunks reach 1.00 of N = 4, the most of all N measured"


def test_over_f_the_unit_is_half_thrown_away() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (8.0, 10.0)}))
    assert [point.x for point in found.over_f.points] == [0.0, 0.5, 0.9]
    # 8 / 7 of the means; seeds 8 / 4 and 8 / 3.
    assert [point.share for point in found.over_f.points] == [
        Share(0.0, 0.0, 0.0),
        Share(1.0, 1.0, 1.0),
        Share(pytest.approx(16 / 7), 2.0, pytest.approx(8 / 3)),
    ]
    # N = 1 by the same unit: 3 / 7 and 8 / 7 of the means.
    independent = [point.share.mean for point in found.over_f_independent.points if point.share]
    assert independent == [0.0, pytest.approx(3 / 7), pytest.approx(8 / 7)]
    assert found.ratios == "f = 0.9 gains 2.29 times what f = 0.5 gains"


def test_where_selection_gains_nothing_it_says_so() -> None:
    found = find(curves({1: (6.0, 8.0), 2: (8.0, 10.0)}, half=(0.0, 0.5)))
    assert found.ratios == "Selection gains nothing over a uniform batch here"
    assert not found.over_f.has_unit
    assert not found.over_f_independent.has_unit


def test_a_gibbs_sampling_that_was_cut_off_is_said() -> None:
    over_N = {1: (6.0, 8.0), 2: (8.0, 10.0)}
    assert find(curves(over_N)).caveat == ""
    assert find(curves(over_N, is_flat=(True, False))).caveat == (
        "Gibbs was stopped before it was flat in 1 of 2 seeds: raise --iterations."
    )
