"""Which engine works for a device.

CPU                                                        CpuEngine
NVIDIA GPU from Hopper on, with Triton, but for float64    TritonEngine
anything else                                              PlainEngine
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import torch

from superbatch.selection.pairs.cpu import CpuEngine
from superbatch.selection.pairs.engine import PairEngine
from superbatch.selection.pairs.plain_engine import PlainEngine

_HOPPER = (9, 0)


def open_engine(num_rows: int, *, device: torch.device, compute_dtype: torch.dtype) -> PairEngine:
    """Return an engine for reductions with `num_rows` rows on the left; enter it before use.

    Args:
        num_rows: B.
        device: where the embeddings are.
        compute_dtype: float64, float32 or bfloat16, the type of the factors of the products.
    """
    if device.type == "cpu":
        return CpuEngine(num_rows, compute_dtype=compute_dtype)
    if compute_dtype != torch.float64 and _runs_triton(device):
        from superbatch.selection.pairs.triton_engine import TritonEngine  # imports Triton, which need not be there

        return TritonEngine(num_rows, compute_dtype=compute_dtype)
    return PlainEngine(num_rows, compute_dtype=compute_dtype)


def _runs_triton(device: torch.device) -> bool:
    """Return whether the kernels run there: their copies need Hopper, and Triton a C compiler for its launcher."""
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < _HOPPER:
        return False
    return find_spec("triton") is not None and any(shutil.which(compiler) for compiler in ("gcc", "clang"))
