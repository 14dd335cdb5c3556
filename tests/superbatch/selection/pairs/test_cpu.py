"""The engine of the CPU against whole matrices in fp64, over sizes around the edges of its blocks.

Letters: B rows, D width, n rows that they are paired with.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK, CHOSEN_BLOCK
from superbatch.selection.pairs.cpu import CpuEngine
from superbatch.selection.pairs.engine import EMPTY, How, PairReduction
from superbatch.selection.pairs.tiles import UNIT
from tests.superbatch.selection import made

HOWS: tuple[How, ...] = ("softplus_sum", "log_sum_exp", "maximum")
ROWS = [1, 5, 511, 513, CANDIDATE_BLOCK - 1, CANDIDATE_BLOCK, CANDIDATE_BLOCK + 1, 2 * CANDIDATE_BLOCK + 3]
PARTNERS = [1, 3, CHOSEN_BLOCK - 1, CHOSEN_BLOCK, CHOSEN_BLOCK + 1, 2 * CHOSEN_BLOCK + 1]


def plain(how: How, logits_Bn: torch.Tensor) -> torch.Tensor:
    if how == "softplus_sum":
        return torch.logaddexp(logits_Bn, torch.zeros(1, dtype=torch.float64)).sum(1)
    return torch.logsumexp(logits_Bn, 1) if how == "log_sum_exp" else logits_Bn.amax(1)


def towers(B: int, n: int, *, width: int = 4, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(B + n)
    return made.model(rng, B, width, dtype=dtype).text, made.model(rng, n, width, dtype=dtype).image


def reduced(requests: list[PairReduction], *, dtype: torch.dtype) -> list[torch.Tensor]:
    with CpuEngine(len(requests[0].left), compute_dtype=dtype) as engine:
        return engine.reduce(requests)


@pytest.mark.parametrize("B", ROWS)
@pytest.mark.parametrize("n", PARTNERS)
def test_blocked_reductions_equal_the_whole_matrix(B: int, n: int) -> None:
    left_BD, right_nD = towers(B, n)
    logits_Bn = 100.0 * left_BD @ right_nD.T - 10.0
    got = reduced([PairReduction(left_BD, right_nD, 100.0, -10.0, how) for how in HOWS], dtype=torch.float64)
    for how, got_B in zip(HOWS, got, strict=True):
        torch.testing.assert_close(got_B, plain(how, logits_Bn), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("B", [5, CANDIDATE_BLOCK + 1])
@pytest.mark.parametrize("n", [3, CHOSEN_BLOCK + 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_pair_with_its_own_row_is_left_out_and_no_other(B: int, n: int, dtype: torch.dtype) -> None:
    left_BD, right_nD = towers(B, n)
    own_n = torch.where(torch.arange(n) % 7 == 0, 37 * torch.arange(n) % B, -1)
    own_n[1] = B - 1  # the first row of the second block, where there are two
    logits_Bn = 20.0 * left_BD @ right_nD.T - 1.0
    here_n = own_n >= 0
    logits_Bn[own_n[here_n], here_n.nonzero().squeeze(1)] = -torch.inf
    requests = [PairReduction(left_BD, right_nD, 20.0, -1.0, how, own=own_n) for how in HOWS]
    # In bf16 a logit of at most 21 is off by 0.2 or less; a pair too many or too few moves a maximum or a sum by more.
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.2}[dtype]
    for how, got_B in zip(HOWS, reduced(requests, dtype=dtype), strict=True):
        expected_B = plain(how, logits_Bn)
        error_B = (got_B - expected_B).abs() / (n if how == "softplus_sum" else 1)
        assert error_B[expected_B > -torch.inf].max() <= tolerance
        assert (got_B[expected_B == -torch.inf] == -torch.inf).all()


@pytest.mark.parametrize("how", HOWS)
def test_a_reduction_over_no_pair_is_empty(how: How) -> None:
    left_BD, right_nD = towers(7, 2)
    alone = PairReduction(left_BD[:1], right_nD[:1], 1.0, 0.0, how, own=torch.tensor([0]))
    none = PairReduction(left_BD, right_nD[:0], 1.0, 0.0, how)
    assert reduced([none], dtype=torch.float64)[0].tolist() == [EMPTY[how]] * 7
    torch.testing.assert_close(reduced([alone], dtype=torch.float64)[0], torch.tensor([EMPTY[how]]).double())


@pytest.mark.parametrize(("scale", "bias"), [(100.0, -10.0), (200.0, 0.0), (10.0, -10.0)])
@pytest.mark.parametrize("width", [64, 512])
def test_fp32_stays_within_its_error_budget(width: int, scale: float, bias: float) -> None:
    """A logit is off by at most 3e-7 of the scale: two roundings of 6e-8 and a sum of products that grow to 1."""
    left_BD, right_nD = towers(300, 300, width=width, dtype=torch.float32)
    logits_Bn = scale * left_BD.double() @ right_nD.double().T + bias
    got = reduced([PairReduction(left_BD, right_nD, scale, bias, how) for how in HOWS], dtype=torch.float32)
    for how, got_B in zip(HOWS, got, strict=True):
        expected_B = plain(how, logits_Bn)
        num_terms = 300 if how == "softplus_sum" else 1
        budget_B = num_terms * 3e-7 * (scale + abs(bias)) + 2e-6 * expected_B.abs()
        assert ((got_B - expected_B).abs() <= budget_B).all()


@pytest.mark.parametrize(("scale", "bias"), [(100.0, -10.0), (30.0, -10.0), (200.0, 0.0), (10.0, -10.0)])
@pytest.mark.parametrize("width", [64, 512])
def test_bf16_rounds_a_logit_once_and_after_its_bias(width: int, scale: float, bias: float) -> None:
    """Given factors in bf16, each term is off by half a unit of bf16 in its own logit, |L| / 256, and no more.

    Beside it, 1e-6 of the scale for sums in fp32, and 1 / 256 of what rounding leaves of the bias, which is added late.
    """
    left_BD, right_nD = towers(300, 300, width=width, dtype=torch.float32)
    left_BD = left_BD.bfloat16()
    for how in HOWS:
        factors_nD = (right_nD * (scale / UNIT[how])).bfloat16().double() * UNIT[how]
        logits_Bn = left_BD.double() @ factors_nD.T + bias
        rounding_Bn = (logits_Bn.abs() + abs(bias) / 256) / 256 + 1e-6 * scale
        expected_B = plain(how, logits_Bn)
        steepest_Bn = torch.sigmoid(logits_Bn + rounding_Bn)
        worst_B = (steepest_Bn * rounding_Bn).sum(1) if how == "softplus_sum" else rounding_Bn.amax(1)
        got_B = reduced([PairReduction(left_BD, right_nD, scale, bias, how)], dtype=torch.bfloat16)[0]
        assert ((got_B - expected_B).abs() <= worst_B + 2e-6 * expected_B.abs()).all()


def test_bf16_keeps_the_digits_of_logits_near_0() -> None:
    # <left, right> = 3/32 + k/4096 at scale 100 gives logits within 0.4 of 0 after a bias of -9.6, 10 before.
    steps_B = torch.arange(-8, 8, dtype=torch.float64)
    left_BD = torch.stack([torch.full((16,), 3 / 32), steps_B / 4096], 1)
    right_nD = torch.ones(1, 2, dtype=torch.float64)
    scale = 96.0 * math.log(2)  # 96 in units of log 2, so no factor is rounded
    request = PairReduction(left_BD, right_nD, scale, -9.0 * math.log(2), "softplus_sum")
    expected_B = torch.nn.functional.softplus(scale * left_BD.sum(1) - 9.0 * math.log(2))
    got_B = reduced([request], dtype=torch.bfloat16)[0]
    torch.testing.assert_close(got_B, expected_B, rtol=1e-6, atol=0)
    late = (96.0 * left_BD.sum(1)).bfloat16().double() - 9.0
    assert (torch.nn.functional.softplus(late * math.log(2)) - expected_B).abs().max() > 1e-3


@pytest.mark.parametrize("bias", [-10.0, -17.3, -30.0])
def test_bf16_keeps_the_digits_of_losses_that_are_nearly_none(bias: float) -> None:
    # What rounding took from the bias is added to each of 128 terms, and must leave nothing behind in their sum.
    left_BD, right_nD = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]] * 128)
    got_B = reduced([PairReduction(left_BD, right_nD, 10.0, bias, "softplus_sum")], dtype=torch.bfloat16)[0]
    assert got_B.item() == pytest.approx(128 * math.log1p(math.exp(bias)), rel=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_is_not_rounded_to_the_type_of_the_products(dtype: torch.dtype) -> None:
    left_BD, right_nD = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]] * 9)
    got_B = reduced([PairReduction(left_BD, right_nD, 50.0, -10.0, "softplus_sum")], dtype=dtype)[0]
    assert got_B.item() == pytest.approx(9 * math.log1p(math.exp(-10.0)), rel=3e-6)


def test_exact_reductions_use_fp32_whatever_the_type_of_the_engine() -> None:
    left_BD, right_nD = towers(50, 20, width=64, dtype=torch.float32)
    asked = PairReduction(left_BD, right_nD, 1.0, 0.0, "maximum", exact=True)
    expected_B = (left_BD.double() @ right_nD.double().T).amax(1)
    torch.testing.assert_close(reduced([asked], dtype=torch.bfloat16)[0], expected_B, rtol=0, atol=3e-7)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_type_in_which_towers_are_stored_does_not_matter_beyond_its_rounding(
    stored: torch.dtype, dtype: torch.dtype
) -> None:
    left_BD, right_nD = (tower.to(stored) for tower in towers(50, 20, width=16))
    asked = PairReduction(left_BD, right_nD, 30.0, -10.0, "softplus_sum")
    same = PairReduction(left_BD.double(), right_nD.double(), 30.0, -10.0, "softplus_sum")
    torch.testing.assert_close(reduced([asked], dtype=dtype), reduced([same], dtype=dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_at_odd_addresses_or_strides_give_the_same_bits(dtype: torch.dtype) -> None:
    left_BD, right_nD = towers(1500, 70, width=24, dtype=dtype)
    odd_BD = torch.empty(1500 * 24 + 1, dtype=dtype)[1:].view(1500, 24).copy_(left_BD)
    columns_BD = left_BD.T.contiguous().T
    requests = [PairReduction(same, right_nD, 100.0, -10.0, "softplus_sum") for same in (left_BD, odd_BD, columns_BD)]
    first, *others = reduced(requests, dtype=dtype)
    for other in others:
        assert torch.equal(first, other)


@pytest.mark.parametrize("num_threads", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(num_threads: int, dtype: torch.dtype) -> None:
    left_BD, right_nD = towers(3 * CANDIDATE_BLOCK + 7, CHOSEN_BLOCK + 9, width=16, dtype=torch.float32)
    requests = [PairReduction(left_BD, right_nD, 100.0, -10.0, how) for how in HOWS]
    alone = reduced(requests, dtype=dtype)
    torch.set_num_threads(num_threads)
    for first, second in zip(alone, reduced(requests, dtype=dtype), strict=True):
        assert torch.equal(first, second)
    assert torch.get_num_threads() == num_threads


def test_towers_and_partners_are_left_as_they_were() -> None:
    left_BD, right_nD = towers(60, 20, width=16, dtype=torch.float32)
    before = left_BD.clone(), right_nD.clone()
    for dtype in (torch.float32, torch.bfloat16):
        reduced([PairReduction(left_BD, right_nD, 30.0, -10.0, how) for how in HOWS], dtype=dtype)
    assert torch.equal(left_BD, before[0])
    assert torch.equal(right_nD, before[1])
