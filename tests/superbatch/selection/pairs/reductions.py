"""Made reductions, their exact values by the full matrix in numpy, and how far an engine may be from them.

Letters: B rows, D width, n rows that they are paired with.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from superbatch.selection.pairs.engine import How, PairReduction
from tests.superbatch.selection import made

HOWS: tuple[How, ...] = ("softplus_sum", "log_sum_exp", "maximum")

# An empty matrix but for one pair, widths and counts beside every multiple of a tile, and many tiles for few rows.
SHAPES = [(1, 1, 1), (5, 3, 7), (16, 16, 16), (17, 33, 40), (33, 15, 31), (4, 300, 8)]

# (t, bias): a young model, a trained one, and the largest scale, where e^L is far outside of float32.
LOGITS = [(10.0, -10.0), (100.0, -12.0), (200.0, 0.0)]

SUMMING = 2.0**-24
"""Rounding of one addition in float32, relative to the largest partial sum."""

FACTOR = 2.0**-8
"""Two factors rounded to bfloat16, each to 2^-9: what their product is off by, relative to it."""

TILE = 2.0**-20
"""What exponentials and logarithms of the hardware (2^-22 each) and sums within a tile add, relative to the result."""


def request(
    B: int,
    n: int,
    D: int,
    *,
    how: How,
    logits: tuple[float, float] = (100.0, -12.0),
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
    own: list[int] | None = None,
    device: str = "cpu",
    exact: bool = False,
) -> PairReduction:
    """Unit rows; where there is room, row i of the right is close to row i of the left, as pairs are."""
    rng = np.random.default_rng(1000 * B + 10 * n + D)
    left_BD, right_nD = rng.standard_normal((B, D)), rng.standard_normal((n, D))
    right_nD[: min(B, n)] += left_BD[: min(B, n)]
    sides = (made.unit_rows(rows, dtype).to(device) for rows, dtype in zip((left_BD, right_nD), dtypes, strict=True))
    own_n = None if own is None else torch.tensor(own, device=device)
    return PairReduction(*sides, scale=logits[0], bias=logits[1], how=how, own=own_n, exact=exact)


def truth(asked: PairReduction, *, factors: torch.dtype) -> np.ndarray:
    """The reduction in fp64, of factors rounded to the type that the engine says it rounds to."""
    logits_Bn = _logits(asked, factors=factors)
    if asked.how == "softplus_sum":
        return np.logaddexp(0.0, logits_Bn).sum(1)
    return np.logaddexp.reduce(logits_Bn, 1) if asked.how == "log_sum_exp" else logits_Bn.max(1)


def budget(asked: PairReduction, *, factors: torch.dtype) -> np.ndarray:
    """How far from `truth` each row may be, for sums in float32.

    A logit is off by at most t * D * 2^-24, the summing of D products whose sizes add up to 1 at most (Cauchy-Schwarz),
    and by four roundings on its way to base 2 and back. A maximum and an LSE are off by no more than the worst logit; a
    sum of softplus by each logit's error times the slope there. The tile's own rounding comes on top, and what is
    smaller than the smallest number of float32 may be lost.
    """
    logits_Bn = _logits(asked, factors=factors)
    exact_B = np.abs(np.nan_to_num(truth(asked, factors=factors), neginf=0.0))
    size = asked.scale + abs(asked.bias)
    logit_error = asked.scale * asked.left.shape[1] * SUMMING + 4 * size * SUMMING
    if asked.how == "softplus_sum":
        slope_Bn = 1 / (1 + np.exp(-logits_Bn))
        return slope_Bn.sum(1) * logit_error + TILE * exact_B + len(asked.right) * 2.0**-126
    return logit_error + (TILE if asked.how == "log_sum_exp" else 0.0) + SUMMING * exact_B


def assert_within(got: Tensor, asked: PairReduction, *, factors: torch.dtype) -> None:
    """Every row is finite where the truth is, and within the budget of it."""
    assert got.dtype == torch.float64
    assert got.device == asked.left.device
    exact_B, allowed_B, got_B = truth(asked, factors=factors), budget(asked, factors=factors), got.numpy(force=True)
    is_finite_B = np.isfinite(exact_B)
    np.testing.assert_array_equal(got_B[~is_finite_B], exact_B[~is_finite_B])
    off_B = np.abs(np.subtract(got_B, exact_B, where=is_finite_B, out=np.zeros_like(exact_B)))
    worst = int(np.argmax(off_B / allowed_B))
    assert (off_B <= allowed_B).all(), (
        f"row {worst}: got {got_B[worst]}, exact {exact_B[worst]}, off by {off_B[worst]:.3g}, "
        f"allowed {allowed_B[worst]:.3g} ({asked.how}, B, D = {tuple(asked.left.shape)}, n = {len(asked.right)}, "
        f"t = {asked.scale}, bias = {asked.bias})"
    )


def _logits(asked: PairReduction, *, factors: torch.dtype) -> np.ndarray:
    left_BD, right_nD = (side.to(factors).double().numpy(force=True) for side in (asked.left, asked.right))
    logits_Bn = asked.scale * (left_BD @ right_nD.T) + asked.bias
    if asked.own is not None:
        for column, row in enumerate(asked.own.tolist()):
            if row >= 0:
                logits_Bn[row, column] = -np.inf
    return logits_Bn
