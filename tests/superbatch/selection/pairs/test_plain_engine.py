from __future__ import annotations

import numpy as np
import pytest
import torch

from superbatch.selection.pairs.engine import How
from superbatch.selection.pairs.plain_engine import MOST_COLUMNS, PlainEngine, products
from tests.superbatch.selection.pairs import reductions

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("how", reductions.HOWS)
@pytest.mark.parametrize("shape", reductions.SHAPES)
@pytest.mark.parametrize("logits", reductions.LOGITS)
@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_every_row_is_within_the_error_budget(
    how: How, shape: tuple[int, int, int], logits: tuple[float, float], compute_dtype: torch.dtype, device: str
) -> None:
    asked = reductions.request(*shape, how=how, logits=logits, device=device)
    with PlainEngine(shape[0], compute_dtype=compute_dtype) as engine:
        (got,) = engine.reduce([asked])
    reductions.assert_within(got, asked, factors=compute_dtype)


@pytest.mark.parametrize("how", reductions.HOWS)
def test_float64_is_the_full_matrix_to_its_last_digits(how: How, device: str) -> None:
    dtypes = (torch.float64, torch.float64)
    asked = reductions.request(33, 40, 24, how=how, dtypes=dtypes, own=[*range(20), *[-1] * 20], device=device)
    (got,) = PlainEngine(33, compute_dtype=torch.float64).reduce([asked])
    exact_B = reductions.truth(asked, factors=torch.float64)
    np.testing.assert_allclose(got.numpy(force=True), exact_B, rtol=1e-13)


@pytest.mark.parametrize("how", reductions.HOWS)
@pytest.mark.parametrize("most_logits", [1, 7, 40, 41, 120])
def test_blocks_change_nothing(how: How, most_logits: int, device: str) -> None:
    dtypes = (torch.float64, torch.float64)
    asked = reductions.request(33, 40, 8, how=how, dtypes=dtypes, own=list(range(40))[::-1], device=device)
    (whole,) = PlainEngine(33, compute_dtype=torch.float64).reduce([asked])
    (blocked,) = PlainEngine(33, compute_dtype=torch.float64, most_logits=most_logits).reduce([asked])
    torch.testing.assert_close(blocked, whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("how", reductions.HOWS)
def test_more_columns_than_a_block_are_joined(how: How, device: str) -> None:
    own = [2] * (MOST_COLUMNS + 500)
    asked = reductions.request(3, MOST_COLUMNS + 500, 4, how=how, logits=(10.0, -10.0), own=own, device=device)
    (got,) = PlainEngine(3, compute_dtype=torch.float32).reduce([asked])
    reductions.assert_within(got, asked, factors=torch.float32)
    assert got[2] == (0.0 if how == "softplus_sum" else -torch.inf)


def test_exact_products_are_not_rounded_to_bfloat16(device: str) -> None:
    asked = reductions.request(17, 5, 40, how="maximum", logits=(1.0, 0.0), exact=True, device=device)
    (got,) = PlainEngine(17, compute_dtype=torch.bfloat16).reduce([asked])
    reductions.assert_within(got, asked, factors=torch.float32)


def test_products_of_bfloat16_are_summed_in_float32(device: str) -> None:
    # 256 + 1 needs 9 digits of the significand and bfloat16 has 8: a sum rounded to it would be 256.
    left = torch.ones(1, 257, dtype=torch.bfloat16, device=device)
    assert products(left, left).item() == 257.0
