"""Towers in the type of the products: converted once where they are small, in each pass where they are not.

Letters: B rows, D width, C rows of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# Converting a tower anew in each round costs 20% of the products of n = 102 rows in bfloat16 and 3% of 819 rows
# (measured, D = 512). A constant bound, so that towers in memory-mapped files are not drawn into memory.
_MOST_BYTES = 2**27


class Converted:
    """Remembers converted towers, first come, first served, up to 128 MiB in all."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._bytes_left = most_bytes
        self._kept: dict[tuple[int, torch.dtype], _Kept] = {}

    def reader(self, tower: Float[Tensor, "B D"], dtype: torch.dtype) -> Callable[[int, int], Float[Tensor, "C D"]]:
        """Return the function from (start, stop) to these rows of the tower in `dtype`.

        It may be called by several threads, with blocks that are equal or apart. A tower is known by its identity and
        must not change meanwhile.
        """
        if tower.dtype == dtype:
            return lambda start, stop: tower[start:stop]
        key = id(tower), dtype
        num_bytes = tower.numel() * dtype.itemsize
        if key not in self._kept and num_bytes <= self._bytes_left:
            self._bytes_left -= num_bytes
            self._kept[key] = _Kept(tower, dtype)
        return self._kept[key].rows if key in self._kept else lambda start, stop: tower[start:stop].to(dtype)


class _Kept:
    """One tower and its copy, filled block by block by whoever reads a block first.

    It holds the tower too, or the id of a tower that is gone could become another's.
    """

    def __init__(self, tower: Float[Tensor, "B D"], dtype: torch.dtype) -> None:
        self._tower_BD = tower
        self._copy_BD = torch.empty(tower.shape, dtype=dtype)
        self._filled: set[tuple[int, int]] = set()

    def rows(self, start: int, stop: int) -> Float[Tensor, "C D"]:
        rows_CD = self._copy_BD[start:stop]
        if (start, stop) not in self._filled:  # two threads may both find it so, and write the same
            rows_CD.copy_(self._tower_BD[start:stop])
            self._filled.add((start, stop))
        return rows_CD
