"""The readable engine, for any device: blocks of logits by torch's own products, reduced by torch's own functions.

What an engine has to compute can be read here; the others only compute it faster. It also works where they do not: in
float64 on a GPU, on an older GPU, or on one without Triton.

Letters: B rows, D width, n rows that they are paired with; R x K, one block of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from superbatch.selection.pairs.engine import EMPTY, How, PairReduction

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int
    from torch import Tensor

MOST_COLUMNS = 4096
MOST_LOGITS = 2**24
"""Entries of one block: 64 MiB in float32, and two or three such blocks live at once. Smaller blocks leave a GPU idle
between launches."""


def _softplus_sum(logits_RK: Tensor) -> Tensor:
    return torch.logaddexp(logits_RK, logits_RK.new_zeros(())).sum(1, dtype=torch.float64)


def _log_sum_exp(logits_RK: Tensor) -> Tensor:
    return logits_RK.logsumexp(1).double()


def _maximum(logits_RK: Tensor) -> Tensor:
    return logits_RK.amax(1).double()


_BLOCK: dict[How, Callable[[torch.Tensor], torch.Tensor]] = {
    "softplus_sum": _softplus_sum,
    "log_sum_exp": _log_sum_exp,
    "maximum": _maximum,
}
_JOIN: dict[How, Callable[..., torch.Tensor]] = {
    "softplus_sum": torch.add,
    "log_sum_exp": torch.logaddexp,
    "maximum": torch.maximum,
}


class PlainEngine:
    """See `PairEngine`. A block is reduced in float32 (float64 for float64 products), blocks are joined in float64.

    float32 products are as exact as torch's own: leave `torch.set_float32_matmul_precision` at `highest`.
    """

    def __init__(self, num_rows: int, *, compute_dtype: torch.dtype, most_logits: int = MOST_LOGITS) -> None:
        del num_rows
        self._compute_dtype = compute_dtype
        self._most_logits = most_logits

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the factors of the products."""
        return self._compute_dtype

    def __enter__(self) -> PlainEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hold nothing."""

    def reduce(self, requests: Sequence[PairReduction]) -> list[Float64[Tensor, " B"]]:
        """Return one fp64 vector per request.

        Cost: per request 2*B*n*D FLOPs; memory n*D and at most three blocks of 2^24 logits, whatever B and n.
        """
        return [self._reduce_one(request) for request in requests]

    def _reduce_one(self, request: PairReduction) -> Float64[Tensor, " B"]:
        right_nD = self._factors(request.right, request)
        total_B = torch.full((len(request.left),), EMPTY[request.how], dtype=torch.float64, device=request.left.device)
        columns = min(max(len(right_nD), 1), MOST_COLUMNS)
        rows = max(1, self._most_logits // columns)
        for start in range(0, len(total_B), rows):
            left_RD, total_R = self._factors(request.left[start : start + rows], request), total_B[start : start + rows]
            for first in range(0, len(right_nD), columns):
                logits_RK = products(left_RD, right_nD[first : first + columns])
                logits_RK.mul_(request.scale).add_(request.bias)
                if request.own is not None:
                    _leave_out(logits_RK, request.own[first : first + columns], start)
                _JOIN[request.how](total_R, _BLOCK[request.how](logits_RK), out=total_R)
        return total_B

    def _factors(self, rows_RD: Float[Tensor, "R D"], request: PairReduction) -> Float[Tensor, "R D"]:
        is_rounded = self._compute_dtype == torch.bfloat16 and not request.exact
        widest = torch.float64 if self._compute_dtype == torch.float64 else torch.float32
        return rows_RD.to(torch.bfloat16 if is_rounded else widest)


def products(left_RD: Float[Tensor, "R D"], right_KD: Float[Tensor, "K D"]) -> Float[Tensor, "R K"]:
    """Return all inner products, in float32 for bfloat16 factors, whose products are exact in it.

    Where the device has no product with that output, the rounded factors are multiplied in float32: the same numbers.
    """
    if left_RD.dtype != torch.bfloat16:
        return left_RD @ right_KD.T
    if left_RD.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):  # torch 2.8 and newer
        return torch.mm(left_RD, right_KD.T, out_dtype=torch.float32)
    return left_RD.float() @ right_KD.float().T


def _leave_out(logits_RK: Tensor, own_K: Int[Tensor, " K"], start: int) -> None:
    """Set the logit of each row with its own column to -inf, which no reduction counts."""
    row_R = torch.arange(start, start + len(logits_RK), device=logits_RK.device)
    logits_RK.masked_fill_(row_R[:, None] == own_K, -torch.inf)
