"""One tile of logits reduced to one number per column, in place and with few passes over memory.

Tiles are given in units of log 2, that is L / log 2, and results are in nats: exp2 costs a third of exp (measured
0.29 ns and 0.86 ns an entry in fp32), and the unit is free where it is part of the scale of the products.

Letters: a tile has R rows, which are reduced, and C columns, which stay.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from superbatch.selection.pairs.engine import How

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

UNIT: dict[How, float] = {"softplus_sum": math.log(2), "log_sum_exp": math.log(2), "maximum": 1.0}
"""What one unit of a tile is in nats."""

# The product of 16 factors, each at most 2, is at most 2^16: no overflow in any type. Longer groups save little:
# one logarithm per 16 entries is a sixth of the exponentials' cost, and each level of joining is two more passes.
_GROUP = 16

# 2^-58 is 3e-18: a term this small changes no sum. Below 2^-126 fp32 would run into subnormal numbers, which cost the
# exponential twice and the joining of groups some twenty times as much (measured).
_LOWEST_EXPONENT = {torch.float32: -58.0, torch.float64: -430.0}


def softplus_sum(
    logits: Float[Tensor, "R C"], *, scratch: Float[Tensor, "R C"], shift: float = 0.0
) -> Float[Tensor, " C"]:
    """Return the sum over rows of softplus(L) with L = (logits + shift) * log 2, and destroy both arguments.

    softplus(L) = max(L, 0) + log(1 + e^-|L|), and a sum of logarithms is one logarithm of a product: groups of at most
    16 rows share one log1p, and no factor exceeds 2. A product is kept as q = (product - 1), joined by
    q = q_1 + q_2 + q_1*q_2, so that losses far below the rounding of 1 (young models, L near -10) keep their digits.
    The shift costs no pass: 2^shift * q is kept instead of q.
    Args:
        logits: in units of log 2, any finite values, or -inf, which adds 0.
        scratch: a buffer of the same shape.
        shift: in units of log 2, small.
    Cost: one exp2 per entry, one log1p per 16 entries, no memory but the result.
    """
    torch.clamp_min(logits, -shift, out=scratch)  # max(L, 0) - shift
    above_C = scratch.sum(0).add_(shift * len(scratch))
    torch.sub(logits, scratch, alpha=2.0, out=logits)  # L - 2 max(L, 0) + shift = -|L| + shift
    q_RC = logits.clamp_min_(_LOWEST_EXPONENT[logits.dtype]).exp2_()
    num_rows, group, unshift = len(q_RC), 1, 2.0**-shift
    while num_rows > 1 and group < _GROUP:
        half = num_rows // 2
        left, right = q_RC[:half], q_RC[num_rows - half : num_rows]
        left.addcmul_(left, right, value=unshift).add_(right)
        num_rows, group = num_rows - half, 2 * group
    return q_RC[:num_rows].mul_(unshift).log1p_().sum(0).add_(above_C, alpha=math.log(2))


def log_sum_exp(
    logits: Float[Tensor, "R C"], *, scratch: Float[Tensor, "R C"], shift: float = 0.0
) -> Float[Tensor, " C"]:
    """Return log sum exp(L) over rows with L = (logits + shift) * log 2, and destroy both arguments.

    Args:
        logits: in units of log 2, any finite values, or -inf, which adds 0; a column of -inf alone gives -inf.
        scratch: a buffer of the same shape.
        shift: in units of log 2.
    Cost: one exp2 per entry, no memory but the result.
    """
    largest_C = logits.amax(0)
    torch.sub(logits, largest_C.clamp_min(torch.finfo(logits.dtype).min), out=scratch)
    sum_C = scratch.clamp_min_(_LOWEST_EXPONENT[logits.dtype]).exp2_().sum(0)
    return largest_C.add_(shift).mul_(math.log(2)).add_(sum_C.log_())


def maximum(logits: Float[Tensor, "R C"], *, scratch: Float[Tensor, "R C"], shift: float = 0.0) -> Float[Tensor, " C"]:
    """Return the largest logits + shift of each column; `scratch` is not used."""
    del scratch
    return logits.amax(0).add_(shift)
