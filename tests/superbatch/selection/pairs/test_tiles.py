"""Reductions of one tile, against fp64 on the whole matrix.

Budgets: fp32 rounds a term by 6e-8 and adds up to 256 of them in a tree or a chain, so 2e-6 relative; fp64 likewise
1e-13. e^L below 2^-58 (fp32; 2^-430 in fp64) counts as that much: `floor`.
"""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from superbatch.selection.pairs.tiles import UNIT, log_sum_exp, maximum, softplus_sum

ROWS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 204, 256]
TYPES = [(torch.float64, 1e-13, 2.0**-430), (torch.float32, 2e-6, 2.0**-58)]
RANGES = [(-12, -8), (-90, 90), (-200, -100), (0, 200), (-1e4, 1e4)]
NEVER = -torch.inf


def made_logits(num_rows: int, low: float, high: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile of 5 columns in units of log 2, and its logits in fp64."""
    generator = torch.Generator().manual_seed(num_rows)
    logits = torch.rand(num_rows, 5, generator=generator, dtype=torch.float64) * (high - low) + low
    tile = (logits / math.log(2)).to(dtype)
    return tile, tile.double() * math.log(2)


def plain_softplus_sum(logits: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(logits, torch.zeros(1, dtype=torch.float64)).sum(0)


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("dtype", "tolerance", "floor"), TYPES)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_grouped_logarithms_equal_the_plain_sum(
    *, num_rows: int, dtype: torch.dtype, tolerance: float, floor: float, low: float, high: float
) -> None:
    tile, logits = made_logits(num_rows, low, high, dtype)
    got = softplus_sum(tile, scratch=torch.empty_like(tile)).double()
    torch.testing.assert_close(got, plain_softplus_sum(logits), rtol=tolerance, atol=2 * num_rows * floor)


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("dtype", "tolerance", "floor"), TYPES)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_log_sum_exp_equals_the_plain_one(
    *, num_rows: int, dtype: torch.dtype, tolerance: float, floor: float, low: float, high: float
) -> None:
    tile, logits = made_logits(num_rows, low, high, dtype)
    got = log_sum_exp(tile, scratch=torch.empty_like(tile)).double()
    torch.testing.assert_close(got, torch.logsumexp(logits, 0), rtol=tolerance, atol=tolerance + num_rows * floor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_maximum_is_exact(dtype: torch.dtype) -> None:
    assert UNIT["maximum"] == 1.0
    tile, _ = made_logits(40, -90, 90, dtype)
    expected = tile.amax(0)
    assert torch.equal(maximum(tile, scratch=torch.empty_like(tile)), expected)


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("shift", [-0.06, 0.03, 0.5])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_shift_is_added_to_every_logit(*, num_rows: int, shift: float, low: float, high: float) -> None:
    tile, logits = made_logits(num_rows, low, high, torch.float64)
    shifted = logits + shift * math.log(2)
    for reduce, expected in (
        (softplus_sum, plain_softplus_sum(shifted)),
        (log_sum_exp, torch.logsumexp(shifted, 0)),
        (maximum, shifted.amax(0) / math.log(2)),
    ):
        got = reduce(tile.clone(), scratch=torch.empty_like(tile), shift=shift)
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance", "floor"), TYPES)
def test_a_pair_left_out_counts_for_nothing(dtype: torch.dtype, tolerance: float, floor: float) -> None:
    tile, _ = made_logits(33, -3, 3, dtype)
    tile[[0, 16, 32], 1] = NEVER
    kept = torch.tensor([row for row in range(33) if row not in (0, 16, 32)])
    for reduce, shift in product((softplus_sum, log_sum_exp, maximum), (0.0, 0.05)):
        got = reduce(tile.clone(), scratch=torch.empty_like(tile), shift=shift)[1]
        without = reduce(tile[kept].clone(), scratch=torch.empty_like(tile[kept]), shift=shift)[1]
        torch.testing.assert_close(got, without, rtol=tolerance, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance", "floor"), TYPES)
def test_a_column_with_nothing_left_is_empty(dtype: torch.dtype, tolerance: float, floor: float) -> None:
    tile = torch.full((5, 3), NEVER, dtype=dtype)
    assert (softplus_sum(tile.clone(), scratch=torch.empty_like(tile)) <= 5 * floor).all()
    for reduce in (log_sum_exp, maximum):
        assert (reduce(tile.clone(), scratch=torch.empty_like(tile)) == NEVER).all()


def test_young_models_keep_the_digits_of_small_losses() -> None:
    # e^-16 is 1e-7, at the rounding of 1 in fp32: log(prod(1 + e^L)) taken plainly would lose most of it.
    tile = torch.full((200, 3), -16.0 / math.log(2))
    logits = tile.double() * math.log(2)
    expected = plain_softplus_sum(logits)
    plainly = (1 + logits.float().exp()).prod(0).log().double()
    assert ((plainly - expected).abs() / expected).min() > 0.02
    got = softplus_sum(tile, scratch=torch.empty_like(tile)).double()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_a_sum_of_exponentials_near_the_largest_number_does_not_overflow() -> None:
    tile = torch.full((256, 2), 200.0 / math.log(2))
    logits = tile.double() * math.log(2)
    got = log_sum_exp(tile.clone(), scratch=torch.empty_like(tile)).double()
    torch.testing.assert_close(got, torch.logsumexp(logits, 0), rtol=1e-6, atol=0)
    got = softplus_sum(tile, scratch=torch.empty_like(tile)).double()
    torch.testing.assert_close(got, plain_softplus_sum(logits), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_factors_at_their_largest_do_not_overflow(dtype: torch.dtype) -> None:
    tile = torch.zeros(256, 2, dtype=dtype)
    got = softplus_sum(tile, scratch=torch.empty_like(tile)).double()
    torch.testing.assert_close(got, torch.full((2,), 256 * math.log(2), dtype=torch.float64), rtol=1e-6, atol=0)
