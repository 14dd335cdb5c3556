"""The plan of a run: every figure of a small one by hand, break-even as an identity, refusals, units."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection.cost import InvalidPlan, Plan, Rates, plan
from superbatch.selection.cost.plan import PolicyPlan, break_even_speed_up
from superbatch.selection.cost.products import own_loss_flops, selection_flops
from superbatch.selection.cost.steps import POLICIES
from superbatch.selection.cost.workload import Model
from superbatch_server.service.demo.stages import curation_flops
from tests.superbatch.selection.cost.made import LEARNER, RATES, workload


def of(found: Plan, name: str) -> PolicyPlan:
    return next(policy for policy in found.policies if policy.policy.name == name)


def test_a_small_run_by_hand() -> None:
    """3 * 1000 * 10 = 30,000 FLOPs a uniform step, 40 of them; the reference over 1,000 rows is 500,000."""
    found = plan(workload(), RATES)
    uniform, jest = found.policies[0], of(found, "jest")
    assert uniform.total.flops == 1_200_000
    assert (uniform.of_uniform, uniform.break_even_speed_up) == (1.0, 1.0)
    own = selection_flops(B=50, b=10, N=5, widths=[8, 4]) + own_loss_flops(b=10, widths=[8, 4])
    assert own == (2 * 50 * 12 + 2 * 2 * 50 * 8 * 12) + 2 * 2 * 100 * 12
    assert jest.pool_pass.flops == 500_000
    assert jest.selection_step == pytest.approx(own / 30_000)
    assert jest.total.flops == pytest.approx(500_000 + 40 * (80_000 + own))
    assert jest.selection_memory_bytes == 50 * 2 * 12 * 4
    assert jest.selection_traffic_bytes == 5 * 50 * 2 * 12 * 4
    assert (found.trained_passes, found.candidate_passes) == (0.4, 2.0)


def test_hours_energy_and_money_by_hand() -> None:
    """3.6 million FLOPs at 1,000 * 0.5 a second are 2 hours; 100 W * 1.5 for 2 hours are 0.3 kWh."""
    rates = replace(RATES, utilisation=0.5, pue=1.5, price_per_kwh=10.0, num_devices=4)
    spend = rates.spend(3.6e6)
    assert (spend.device_hours, spend.wall_hours) == pytest.approx((2.0, 0.5))
    assert spend.kwh == pytest.approx(0.3)
    assert spend.money == pytest.approx(2 * 2.0 + 0.3 * 10.0)


def test_scoring_and_pool_pass_are_what_the_demo_charges() -> None:
    """`make demo` adds up F * (pool rows + rows scored) from what its job reports."""
    work = workload(reference=LEARNER)
    stats: Any = {"segments": [{"rule": "checkpoint", "B": [work.B] * work.num_batches}]}
    charged = curation_flops(stats, pool_rows=work.rows, forward_flops=LEARNER.forward_flops)
    jest = of(plan(work, RATES), "jest")
    scoring = jest.step.scoring * work.uniform_step_flops * work.num_batches
    assert jest.pool_pass.flops + scoring == pytest.approx(charged, rel=1e-12)


def test_the_pool_pass_is_paid_by_those_that_cache() -> None:
    paid = {found.policy.name for found in plan(workload(), RATES).policies if found.pool_pass.flops}
    assert paid == {"jest", "jest-inline", "flexi-jest", "easy-reference", "independent"}


def test_training_the_reference_is_charged_to_all_that_use_it() -> None:
    found = plan(workload(reference_examples=100), RATES)
    assert {policy.reference_training.flops for policy in found.policies[1:]} == {3 * 500 * 100}
    assert found.policies[0].reference_training.flops == 0
    without = plan(workload(), RATES)
    assert of(found, "jest").total.flops - of(without, "jest").total.flops == pytest.approx(150_000)


def test_scorers_for_each_trainer() -> None:
    """R/3 = 5/3 of a uniform step scores; a trainer that reuses the forward trains 2/3 of one."""
    found = plan(workload(), RATES)
    assert of(found, "jest").scoring_of_training == pytest.approx(5 / 3)
    assert of(found, "jest-inline").scoring_of_training == pytest.approx(2.5)
    assert of(found, "jest-online").scoring_of_training == pytest.approx(5 / 3 + 2.5 / 3)
    assert of(found, "easy-reference").scoring_of_training == 0


@given(
    f=st.floats(0.0, 0.95),
    num_batches=st.integers(1, 10**6),
    N=st.integers(1, 10),
    loss=st.sampled_from(["sigmoid", "softmax"]),
    forward=st.floats(1.0, 1e12),
    reference=st.floats(1.0, 1e12),
    examples=st.integers(0, 10**6),
)
def test_at_break_even_a_policy_costs_what_uniform_does(
    *, f: float, num_batches: int, N: int, loss: Any, forward: float, reference: float, examples: int
) -> None:
    work = workload(
        f=f,
        N=N,
        loss=loss,
        num_batches=num_batches,
        learner=replace(LEARNER, forward_flops=forward),
        reference=replace(LEARNER, forward_flops=reference),
        reference_examples=examples,
    )
    found = plan(work, RATES)
    uniform = found.policies[0].total.flops
    for policy in found.policies:
        once = policy.pool_pass.flops + policy.reference_training.flops
        if policy.break_even_speed_up is None:
            assert once >= uniform
            continue
        steps = num_batches / policy.break_even_speed_up
        spent = once + steps * (policy.step.total + policy.selection_step) * work.uniform_step_flops
        assert spent == pytest.approx(uniform, rel=1e-9)


@given(st.floats(0.0, 0.97), st.floats(0.0, 0.97))
def test_a_higher_f_is_never_cheaper(f: float, g: float) -> None:
    low, high = (plan(workload(f=value, rows=10_000), RATES) for value in sorted((f, g)))
    for cheap, dear in zip(low.policies, high.policies, strict=True):
        assert cheap.total.flops <= dear.total.flops * (1 + 1e-12)
        assert cheap.storage.total_bytes <= dear.storage.total_bytes


@given(st.floats(1.0, 1e6))
def test_ratios_do_not_depend_on_the_device(scale: float) -> None:
    faster = replace(RATES, peak_flops_per_s=RATES.peak_flops_per_s * scale)
    for slow, fast in zip(plan(workload(), RATES).policies, plan(workload(), faster).policies, strict=True):
        assert (slow.of_uniform, slow.break_even_speed_up) == (fast.of_uniform, fast.break_even_speed_up)
        assert slow.total.device_hours == pytest.approx(scale * fast.total.device_hours)


def test_no_speed_up_pays_for_a_run_shorter_than_the_pool_pass() -> None:
    assert break_even_speed_up(2.0, once=0.5) == 4.0
    assert break_even_speed_up(2.0, once=1.0) is None
    found = plan(workload(num_batches=16), RATES)  # 16 * 30,000 FLOPs, less than 500,000
    assert of(found, "easy-reference").break_even_speed_up is None
    assert of(found, "jest-online").break_even_speed_up is not None


def test_pushed_checkpoints_are_counted() -> None:
    found = plan(workload(checkpoint_every=15), RATES)
    assert (found.checkpoint_pushes, found.checkpoint_bytes) == (2, 1400)
    unknown = plan(workload(checkpoint_every=15, learner=replace(LEARNER, checkpoint_bytes=None)), RATES)
    assert (unknown.checkpoint_pushes, unknown.checkpoint_bytes) == (2, None)
    assert plan(workload(), RATES).checkpoint_pushes == 0


def test_a_super_batch_is_rounded_as_the_service_rounds_it() -> None:
    work = workload(b=3, f=0.3, N=1)
    assert (work.B, work.R) == (4, 4 / 3)
    assert of(plan(work, RATES), "jest").step.total == pytest.approx((4 / 3 + 3) / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": 0}, "b must be at least 1; got 0"),
        ({"f": 1.0}, r"f must be in \[0, 1\); got 1.0"),
        ({"f": -0.1}, r"f must be in \[0, 1\); got -0.1"),
        ({"f": math.nan}, r"f must be in \[0, 1\); got nan"),
        ({"N": 11}, r"N must be in \[1, b = 10\]; got 11"),
        ({"N": 0}, r"N must be in \[1, b = 10\]; got 0"),
        ({"rows": 0}, "the data set must have at least 1 row; got 0"),
        ({"rows": 49}, "a super-batch must fit into the data set of 49 rows; got 50"),
        ({"num_batches": 0}, "a run must have at least 1 batch; got 0"),
        ({"reference_examples": -1}, "trained on must be at least 0; got -1"),
        ({"example_bytes": 0.0}, "an example must take at least 1 byte; got 0.0"),
        ({"example_bytes": math.nan}, "an example must take at least 1 byte; got nan"),
        ({"checkpoint_every": 0}, "checkpoints must lie at least 1 batch apart; got 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        workload(**changes)


def test_the_limits_themselves_are_allowed() -> None:
    assert workload(rows=50, N=10, example_bytes=1.0, checkpoint_every=1, num_batches=1).B == 50
    assert workload(f=0.0).R == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peak_flops_per_s": 0.0}, "the peak of a device must be above 0 FLOP/s; got 0.0"),
        ({"watts": -1.0}, "watts must be above 0; got -1.0"),
        ({"price_per_hour": -0.01}, "the price of a device-hour must be at least 0; got -0.01"),
        ({"price_per_hour": math.nan}, "the price of a device-hour must be at least 0; got nan"),
        ({"price_per_kwh": math.inf}, "the price of a kWh must be at least 0; got inf"),
        ({"utilisation": 0.0}, r"utilisation must be in \(0, 1\]; got 0.0"),
        ({"utilisation": 1.01}, r"utilisation must be in \(0, 1\]; got 1.01"),
        ({"pue": 0.99}, "PUE must be at least 1; got 0.99"),
        ({"num_devices": 0}, "devices must be at least 1; got 0"),
    ],
)
def test_rates_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        replace(RATES, **changes)


@pytest.mark.parametrize(("flops", "width"), [(0.0, 8), (math.inf, 8), (math.nan, 8), (1.0, 0)])
def test_a_model_that_cannot_be_is_refused(flops: float, width: int) -> None:
    with pytest.raises(InvalidPlan, match="must be"):
        Model("m", forward_flops=flops, width=width)


def test_policies_can_be_chosen() -> None:
    found = plan(workload(), RATES, policies=POLICIES[:2])
    assert [policy.policy.name for policy in found.policies] == ["uniform", "jest"]


def test_the_cost_model_needs_the_standard_library_only() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'pyarrow', 'httpx', 'pydantic'): sys.modules[name] = None\n"
        "from superbatch.selection.cost import Rates, Workload, plan\n"
        "from superbatch.selection.cost.presets import find_architecture\n"
        "from superbatch.selection.cost.workload import Model\n"
        "model = Model.of_architecture(*find_architecture('ViT-B-16'))\n"
        "work = Workload(model, model, rows=10**8, b=32768, f=0.8, N=16, num_batches=1000)\n"
        "rates = Rates('x', 'bf16', 1e15, 700, 3.0)\n"
        "print(round(plan(work, rates).policies[1].step.total, 3))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "2.667\n"


def test_rates_have_stated_defaults() -> None:
    rates = Rates("x", "bf16", 1e12, 100.0, 1.0)
    assert (rates.utilisation, rates.pue, rates.price_per_kwh, rates.num_devices) == (0.35, 1.2, 0.0, 1)
