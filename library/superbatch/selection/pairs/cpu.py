"""The engine of the CPU: products of cache-sized tiles, each reduced before the next; one thread per block of rows.

Letters: B rows, D width, n rows that they are paired with; C rows of one block, K of the n in one tile. A tile has a
row for each k and a column for each i, so a reduction runs over its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.pairs import tiles
from superbatch.selection.pairs.block_threads import CHOSEN_BLOCK, BlockThreads, Workspace
from superbatch.selection.pairs.engine import EMPTY, How, PairReduction

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int
    from torch import Tensor

_TILE: dict[How, Callable[..., torch.Tensor]] = {
    "softplus_sum": tiles.softplus_sum,
    "log_sum_exp": tiles.log_sum_exp,
    "maximum": tiles.maximum,
}
_JOIN: dict[How, Callable[..., torch.Tensor]] = {
    "softplus_sum": torch.add,
    "log_sum_exp": torch.logaddexp,
    "maximum": torch.maximum,
}


class CpuEngine:
    """See `PairEngine`. A tile is reduced in float32 (float64 for float64 products), tiles are joined in float64."""

    def __init__(self, num_rows: int, *, compute_dtype: torch.dtype) -> None:
        self._compute_dtype = compute_dtype
        self._threads = BlockThreads(num_rows, torch.device("cpu"))

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the factors of the products."""
        return self._compute_dtype

    def __enter__(self) -> CpuEngine:
        self._threads.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.__exit__(kind, error, trace)

    def reduce(self, requests: Sequence[PairReduction]) -> list[Float64[Tensor, " B"]]:
        """Return one fp64 vector per request.

        Cost: per request 2*B*n*D FLOPs; memory n*D, and two tiles per thread, whatever B and n.
        """
        scaled = self._threads.on_one_core(lambda: [self._scaled(request) for request in requests])
        totals = [torch.full((len(request.left),), EMPTY[request.how], dtype=torch.float64) for request in requests]

        def reduce_block(start: int, stop: int, workspace: Workspace) -> None:
            for request, right_nD, total_B in zip(requests, scaled, totals, strict=True):
                left_CD = _block(request.left, start, stop, right_nD.dtype)
                first = 0
                for K in chunk_sizes(len(right_nD), -(-len(right_nD) // CHOSEN_BLOCK)):
                    logits_KC, scratch_KC = _logits(left_CD, right_nD[first : first + K], workspace)
                    logits_KC.add_(request.bias)
                    if request.own is not None:
                        _leave_out(logits_KC, request.own[first : first + K], start, stop)
                    total_C = total_B[start:stop]
                    _JOIN[request.how](total_C, _TILE[request.how](logits_KC, scratch=scratch_KC).double(), out=total_C)
                    first += K

        self._threads.for_each_block(reduce_block)
        return totals

    def _scaled(self, request: PairReduction) -> Float[Tensor, "n D"]:
        tile_dtype = _tile_dtype(self._compute_dtype)
        scaled_nD = request.right.to(tile_dtype) * request.scale
        return scaled_nD if request.exact else scaled_nD.to(self._compute_dtype)


def _logits(
    left_CD: Float[Tensor, "C D"], right_KD: Float[Tensor, "K D"], workspace: Workspace
) -> tuple[Tensor, Tensor]:
    logits_KC, scratch_KC = workspace.tile(len(right_KD), len(left_CD), dtype=_tile_dtype(left_CD.dtype))
    if left_CD.dtype == torch.bfloat16:
        logits_KC.copy_(torch.mm(right_KD, left_CD.T))
    else:
        torch.mm(right_KD, left_CD.T, out=logits_KC)
    return logits_KC, scratch_KC


def _tile_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if compute_dtype == torch.float64 else torch.float32


def _block(left_BD: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Return rows [start, stop) in contiguous, cache-line-aligned memory, copied only where they are not.

    Equal input must give equal bits, and the libraries below promise that for aligned rows only.
    """
    rows_CD = left_BD[start:stop].to(dtype)
    is_aligned = rows_CD.is_contiguous() and rows_CD.data_ptr() % 64 == 0
    return rows_CD if is_aligned else rows_CD.clone(memory_format=torch.contiguous_format)


def _leave_out(logits_KC: Tensor, own_K: Int[Tensor, " K"], start: int, stop: int) -> None:
    """Set the logit of each row with its own column to -inf, which no reduction counts."""
    here = ((own_K >= start) & (own_K < stop)).nonzero().squeeze(1)
    logits_KC[here, own_K[here] - start] = -torch.inf
