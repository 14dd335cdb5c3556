"""Which row of a cache has a key: two files, the keys in order and the row of each, searched where they lie.

Letters: M rows of the cache, B keys that are looked up.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, Shaped

ABSENT = -1


class KeyIndex:
    """Looks keys up in files that `write_key_index` wrote, mapped and not read into memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key_M = np.load(folder / f"{name}-keys.npy", mmap_mode="r", allow_pickle=False)
        self._row_M = np.load(folder / f"{name}-rows.npy", mmap_mode="r", allow_pickle=False)

    def rows_of(self, key_B: Shaped[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the row of each key, of equal keys the first row; ABSENT where there is none."""
        if not len(self._key_M):
            return np.full(len(key_B), ABSENT, dtype=np.int64)
        place_B = np.minimum(np.searchsorted(self._key_M, key_B), len(self._key_M) - 1)
        is_here_B: Bool[np.ndarray, " B"] = self._key_M[place_B] == key_B
        found_B: np.ndarray = np.where(is_here_B, self._row_M[place_B], ABSENT)
        return found_B


def write_key_index(folder: Path, name: str, key_M: Shaped[np.ndarray, " M"]) -> None:
    """Write the index of the keys of rows 0 .. M-1.

    Cost: memory of the keys and 8 bytes per row, and the time of a sort.
    """
    order_M = np.argsort(key_M, kind="stable")
    np.save(folder / f"{name}-keys.npy", key_M[order_M])
    np.save(folder / f"{name}-rows.npy", order_M.astype(np.int64))


def uid_keys(uid_B16: Shaped[np.ndarray, "B 16"]) -> Shaped[np.ndarray, " B"]:
    """Return uids as one value each, which numpy can sort: strings of 16 bytes, compared byte by byte."""
    return np.ascontiguousarray(uid_B16).view("S16").reshape(len(uid_B16))
