"""Which engine works for a device."""

from __future__ import annotations

import torch

from superbatch.selection.pairs.cpu import CpuEngine
from superbatch.selection.pairs.engine import PairEngine


def open_engine(num_rows: int, *, device: torch.device, compute_dtype: torch.dtype) -> PairEngine:
    """Return an engine for reductions with `num_rows` rows on the left; enter it before use.

    Args:
        num_rows: B.
        device: where the embeddings are.
        compute_dtype: float64, float32 or bfloat16, the type of the factors of the products.
    """
    del device
    return CpuEngine(num_rows, compute_dtype=compute_dtype)
