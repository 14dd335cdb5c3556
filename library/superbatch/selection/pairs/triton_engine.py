"""The engine of NVIDIA GPUs from Hopper on: one Triton kernel per reduction, and no logit in device memory.

Times to know, by the rates of the hardware (H200: 780 TFLOP/s for large bfloat16 products): B = 163,840, n = 2,048,
D = 768 takes 660 microseconds of products. Done after the product, the exponentials alone, 16 per clock and
multiprocessor, would add a sixth of that; so tiles are small enough for two programs on a multiprocessor, and one
multiplies while the other reduces. Nothing here has been timed on a GPU yet: benchmarks/selection_cuda.py does it.

Block sizes are chosen by type and shape, never by timing, which could choose otherwise tomorrow and change the bits.

Letters: B rows, D width, n rows that they are paired with, S splits of n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import torch
import triton
from torch.nn.functional import pad
from torch.utils.weak import WeakIdKeyDictionary
from triton.tools.tensor_descriptor import TensorDescriptor

from superbatch.selection.pairs.engine import EMPTY, How, PairReduction
from superbatch.selection.pairs.triton_kernels import reduce_pairs

if TYPE_CHECKING:
    from jaxtyping import Float, Float64
    from torch import Tensor

_LOG2_E = 1.4426950408889634

# The kernel's logarithms are to base 2; a maximum needs none.
_UNITS_PER_NAT: dict[How, float] = {"softplus_sum": _LOG2_E, "log_sum_exp": _LOG2_E, "maximum": 1.0}
_JOIN_SPLITS: dict[How, Callable[[torch.Tensor], torch.Tensor]] = {
    "softplus_sum": lambda partial_SB: partial_SB.sum(0),
    "log_sum_exp": lambda partial_SB: partial_SB.logsumexp(0),
    "maximum": lambda partial_SB: partial_SB.amax(0),
}

_COPY_ALIGNMENT_BYTES = 16


@dataclass(frozen=True)
class Tiling:
    """Rows of left, rows of right and width of one step of a program, and how the hardware is asked to run it."""

    rows: int
    columns: int
    width: int
    num_warps: int
    num_stages: int


# As compiled for sm_90 by Triton 3.6 and 3.7: at most 255 registers, no spill, 97 KiB of shared memory: two programs
# fit on a multiprocessor. 128 bytes of width are one swizzled row of shared memory. An accumulator takes 128 registers
# a thread, and three stages are as many as fit twice.
_HALF_TILING = Tiling(rows=128, columns=128, width=64, num_warps=4, num_stages=3)
# float32 products run on the ordinary cores: 232 registers, no spill, ten multiply-adds to a load from shared memory.
_SINGLE_TILING = Tiling(rows=128, columns=64, width=16, num_warps=8, num_stages=3)
TILINGS = {torch.bfloat16: _HALF_TILING, torch.float16: _HALF_TILING, torch.float32: _SINGLE_TILING}

MOST_SPLITS = 16
"""Partial results per row: 128 bytes, less than a row itself."""

ENOUGH_PROGRAMS = 8192
"""About 31 for each of the 264 places of an H200, so that the last few running alone cost 3% at most."""


def split_tiles(num_rows: int, num_columns: int, tiling: Tiling) -> tuple[int, int]:
    """Return (tiles per program, splits), so that `splits` programs share the tiles of one block of rows.

    Few tiles per program make programs enough to fill the hardware, many save starts; the most that leave
    `ENOUGH_PROGRAMS`, in powers of two, and never more than `MOST_SPLITS` splits. A function of the shape alone.
    """
    num_blocks, num_tiles = triton.cdiv(num_rows, tiling.rows), triton.cdiv(num_columns, tiling.columns)
    tiles_per_program = 1
    while triton.cdiv(num_tiles, tiles_per_program) > MOST_SPLITS or (
        tiles_per_program < num_tiles and num_blocks * triton.cdiv(num_tiles, 2 * tiles_per_program) >= ENOUGH_PROGRAMS
    ):
        tiles_per_program *= 2
    return tiles_per_program, triton.cdiv(num_tiles, tiles_per_program)


class TritonEngine:
    """See `PairEngine`. Products are summed in float32, a tile is reduced in float32, tiles are joined in float64.

    Where both sides are of the same 16-bit type they are multiplied as they are, whatever `compute_dtype` says: such
    products are exact in float32, and run at the full rate. A tower of another type is converted once and kept as long
    as its owner keeps it; it must not change meanwhile.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        compute_dtype: torch.dtype,
        tiling: Tiling | None = None,
    ) -> None:
        del num_rows
        assert compute_dtype in (torch.bfloat16, torch.float32), compute_dtype
        self._compute_dtype = compute_dtype
        self._tiling = tiling
        self._laid_out: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the factors of the products, unless both sides are of one 16-bit type."""
        return self._compute_dtype

    def __enter__(self) -> TritonEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._laid_out.clear()

    def reduce(self, requests: Sequence[PairReduction]) -> list[Float64[Tensor, " B"]]:
        """Return one fp64 vector per request; nothing waits for the device.

        Cost: per request 2*B*n*D FLOPs; memory n*D, at most 16 numbers per row, and converted towers.
        """
        return [self._reduce_one(request) for request in requests]

    def _reduce_one(self, request: PairReduction) -> Float64[Tensor, " B"]:
        B, n, device = len(request.left), len(request.right), request.left.device
        if B == 0 or n == 0:
            return torch.full((B,), EMPTY[request.how], dtype=torch.float64, device=device)
        dtype = self._factor_dtype(request)
        tiling = self._tiling or TILINGS[dtype]
        left_BD, right_nD = self._kept(request.left, dtype), laid_out(request.right, dtype)
        tiles_per_program, num_splits = split_tiles(B, n, tiling)
        partial_SB = torch.empty(num_splits, B, dtype=torch.float64, device=device)
        units_per_nat = _UNITS_PER_NAT[request.how]
        with torch.cuda.device(device) if left_BD.is_cuda else nullcontext():
            reduce_pairs[(triton.cdiv(B, tiling.rows) * num_splits,)](
                TensorDescriptor.from_tensor(left_BD, [tiling.rows, tiling.width]),
                TensorDescriptor.from_tensor(right_nD, [tiling.columns, tiling.width]),
                request.own,
                partial_SB,
                B,
                n,
                left_BD.shape[1],
                request.scale * units_per_nat,
                request.bias * units_per_nat,
                tiles_per_program,
                num_splits,
                how=request.how,
                has_own=request.own is not None,
                is_interpreted=not left_BD.is_cuda,
                R=tiling.rows,
                K=tiling.columns,
                W=tiling.width,
                num_warps=tiling.num_warps,
                num_stages=tiling.num_stages,
            )
        return _JOIN_SPLITS[request.how](partial_SB.div_(units_per_nat))

    def _factor_dtype(self, request: PairReduction) -> torch.dtype:
        dtype = request.left.dtype
        if dtype == request.right.dtype and dtype in (torch.float16, torch.bfloat16):
            return dtype
        return torch.float32 if request.exact else self._compute_dtype

    def _kept(self, tower: Float[Tensor, "B D"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
        if tower not in self._laid_out:
            self._laid_out[tower] = {}
        by_dtype: dict[torch.dtype, Tensor] = self._laid_out[tower]
        if dtype not in by_dtype:
            made = laid_out(tower, dtype)
            if made is tower:  # kept, it would keep itself
                return tower
            by_dtype[dtype] = made
        return by_dtype[dtype]


def laid_out(rows: Float[Tensor, "n D"], dtype: torch.dtype) -> Float[Tensor, "n D"]:
    """Return the rows as the copy engine reads them: in `dtype`, contiguous, rows and start on 16 bytes.

    Zeros are added to a width that does not come out even; they change no product. Rows that are so already are
    returned as they are.
    """
    typed_nD = rows.to(dtype)
    missing = -typed_nD.shape[1] % (_COPY_ALIGNMENT_BYTES // dtype.itemsize)
    if missing:
        return pad(typed_nD, (0, missing))
    is_aligned = typed_nD.is_contiguous() and typed_nD.data_ptr() % _COPY_ALIGNMENT_BYTES == 0
    return typed_nD if is_aligned else typed_nD.clone(memory_format=torch.contiguous_format)
