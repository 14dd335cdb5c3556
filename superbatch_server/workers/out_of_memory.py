"""Telling a lack of memory from other failures."""

from __future__ import annotations

import torch

_ALLOCATOR = "can't allocate memory"  # of torch on a CPU, which raises a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a smaller micro-batch may cure the error."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _ALLOCATOR in str(error)
