from __future__ import annotations

import numpy as np
import pytest
import torch

from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK, CHOSEN_BLOCK
from superbatch.selection.pairs.cpu import CpuEngine
from superbatch.selection.pairs.engine import PairReduction
from superbatch.selection.pairs.tiles import softplus_sum
from tests.superbatch.selection import made


def plain_softplus_sum(logits: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(logits.double(), torch.zeros(1, dtype=torch.float64)).sum(0)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 63, 64, 65, 127, 204, 256])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("low", "high"), [(-12, -8), (-90, 90), (-200, -100), (0, 200)])
def test_grouped_logarithms_equal_the_plain_sum(
    num_rows: int, dtype: torch.dtype, tolerance: float, low: float, high: float
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    logits = (torch.rand(num_rows, 5, generator=generator, dtype=torch.float64) * (high - low) + low).to(dtype)
    expected = plain_softplus_sum(logits)
    got = softplus_sum(logits.clone(), scratch=torch.empty_like(logits)).double()
    floor = num_rows * float(np.exp(-40.0 if dtype == torch.float32 else -300.0))  # what is added for e^L below it
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=2 * floor)


def test_young_models_keep_the_digits_of_small_losses() -> None:
    # e^-16 is 1e-7, at the rounding of 1 in fp32: log(prod(1 + e^L)) taken plainly would lose most of it.
    logits = torch.full((200, 3), -16.0)
    expected = plain_softplus_sum(logits)
    plainly = (1 + logits.exp()).prod(0).log().double()
    assert ((plainly - expected).abs() / expected).min() > 0.02
    got = softplus_sum(logits.clone(), scratch=torch.empty_like(logits)).double()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("B", [1, 5, CANDIDATE_BLOCK, CANDIDATE_BLOCK + 1])
@pytest.mark.parametrize("n", [1, 3, CHOSEN_BLOCK, CHOSEN_BLOCK + 1])
def test_blocked_sums_equal_the_whole_product(B: int, n: int) -> None:
    rng = np.random.default_rng(B + n)
    candidates, chosen = made.model(rng, B, 4), made.model(rng, n, 4)
    logits_nB = 100.0 * chosen.image @ candidates.text.T - 10.0
    expected_B = plain_softplus_sum(logits_nB)
    request = PairReduction(candidates.text, chosen.image, 100.0, -10.0, "softplus_sum")
    with CpuEngine(B, compute_dtype=torch.float64) as engine:
        total_B = engine.reduce([request])[0]
    torch.testing.assert_close(total_B, expected_B, rtol=1e-11, atol=1e-11)
