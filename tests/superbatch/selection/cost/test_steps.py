"""The paper's cost table, and laws of any such table."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection.cost.errors import InvalidPlan
from superbatch.selection.cost.steps import (
    EASY_REFERENCE,
    FLEXI_JEST,
    INDEPENDENT,
    JEST,
    JEST_ONLINE,
    JEST_REUSED,
    POLICIES,
    UNIFORM,
    LowResolution,
    Policy,
    candidates_per_row,
    step_cost,
)

ratios = st.floats(1.0, 1000.0)
fractions = st.floats(0.0, 0.99)


def total(policy: Policy, f: float, **keywords: float) -> float:
    return step_cost(policy, R=candidates_per_row(f), **keywords).total  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "cost"),
    [
        (UNIFORM, 1),
        (JEST_REUSED, 2.333),
        (JEST, 2.667),
        (FLEXI_JEST, 1.107),
        (EASY_REFERENCE, 1),
        (INDEPENDENT, 2.667),
        (JEST_ONLINE, 4.333),
    ],
)
def test_the_paper_s_table_at_one_in_five(policy: Policy, cost: float) -> None:
    """JEST (arXiv:2406.17711): 2.33 with the forward reused, 1.1 for Flexi-JEST; ours are below them."""
    assert round(total(policy, 0.8), 3) == cost


@pytest.mark.parametrize(
    ("f", "reused", "not_reused", "flexi"), [(0.5, 4 / 3, 5 / 3, 0.64 + 0.56 / 3), (0.9, 4, 13 / 3, 0.64 + 2.8 / 3)]
)
def test_other_filter_ratios_by_hand(f: float, reused: float, not_reused: float, flexi: float) -> None:
    assert total(JEST_REUSED, f) == pytest.approx(reused, rel=1e-12)
    assert total(JEST, f) == pytest.approx(not_reused, rel=1e-12)
    assert total(FLEXI_JEST, f) == pytest.approx(flexi, rel=1e-12)


def test_a_smaller_reference_online_costs_in_proportion() -> None:
    """R * (F_ref / F) / 3 = 5 * 0.3 / 3."""
    assert total(JEST_ONLINE, 0.8, reference_cost=0.3) == pytest.approx(total(JEST, 0.8) + 0.5, rel=1e-12)


def test_forward_reused_with_the_reference_online() -> None:
    """The two can be combined: (R + 2)/3 + R/3."""
    both = replace(JEST_REUSED, reference="online")
    assert total(both, 0.8) == pytest.approx(4.0, rel=1e-12)


def test_low_resolution_is_a_share_of_the_batch_at_a_share_of_the_cost() -> None:
    """A quarter of the batch at half the cost: training 0.875, scoring 0.5 * 5 / 3."""
    step = step_cost(FLEXI_JEST, R=5.0, low_resolution=LowResolution(cost=0.5, share=0.25))
    assert (step.training, step.scoring, step.reference) == pytest.approx((0.875, 2.5 / 3, 0.0))


@given(fractions, fractions, st.sampled_from(POLICIES), st.floats(0.01, 10.0))
def test_cost_never_falls_as_more_is_thrown_away(f: float, g: float, policy: Policy, reference_cost: float) -> None:
    low, high = sorted((f, g))
    assert total(policy, low, reference_cost=reference_cost) <= total(policy, high, reference_cost=reference_cost)


@given(fractions, st.floats(0.01, 10.0))
def test_uniform_is_the_unit_and_nothing_that_scores_is_cheaper_but_flexi(f: float, reference_cost: float) -> None:
    assert total(UNIFORM, f, reference_cost=reference_cost) == 1
    for policy in (EASY_REFERENCE, JEST_REUSED, JEST, JEST_ONLINE, INDEPENDENT):
        assert total(policy, f, reference_cost=reference_cost) >= 1 - 1e-12


@given(ratios, st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_flexi_costs_no_more_than_full_resolution(R: float, cost: float, share: float) -> None:
    low = LowResolution(cost=cost, share=share)
    assert step_cost(FLEXI_JEST, R=R, low_resolution=low).total <= step_cost(JEST, R=R).total + 1e-9


@given(ratios)
def test_reusing_the_forward_saves_a_third_of_a_step(R: float) -> None:
    assert step_cost(JEST, R=R).total - step_cost(JEST_REUSED, R=R).total == pytest.approx(1 / 3, abs=1e-9)


@pytest.mark.parametrize("f", [1.0, -0.1, math.nan, math.inf])
def test_f_must_be_a_filter_ratio(f: float) -> None:
    with pytest.raises(InvalidPlan, match=r"f must be in \[0, 1\); got"):
        candidates_per_row(f)


@pytest.mark.parametrize("R", [0.99, math.nan, math.inf])
def test_a_batch_comes_out_of_its_candidates(R: float) -> None:
    with pytest.raises(InvalidPlan, match="R = B/b must be at least 1"):
        step_cost(JEST, R=R)


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_a_reference_has_a_cost(cost: float) -> None:
    with pytest.raises(InvalidPlan, match="F_ref / F must be above 0"):
        step_cost(JEST, R=5.0, reference_cost=cost)


@pytest.mark.parametrize(("cost", "share"), [(0.0, 0.5), (1.1, 0.5), (0.28, -0.1), (0.28, 1.1), (math.nan, 0.5)])
def test_low_resolution_has_shares(cost: float, share: float) -> None:
    with pytest.raises(InvalidPlan, match="low resolution must"):
        LowResolution(cost=cost, share=share)


@pytest.mark.parametrize("changes", [{"low_resolution": True}, {"scores_with_learner": False}])
def test_only_a_full_scoring_forward_can_be_reused(changes: dict[str, bool]) -> None:
    with pytest.raises(InvalidPlan, match="only a scoring forward at full resolution can be reused"):
        replace(JEST_REUSED, **changes)  # type: ignore[arg-type]


def test_every_policy_has_its_own_name_and_a_meaning() -> None:
    assert len({policy.name for policy in POLICIES}) == len(POLICIES) == 7
    assert POLICIES[0] is UNIFORM
    assert all(policy.meaning for policy in POLICIES)
