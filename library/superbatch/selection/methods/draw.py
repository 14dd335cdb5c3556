"""Taking the largest, with ties that do not depend on the order of the candidates.

Letters: B candidates, n drawn in one round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
    from torch import Tensor


def identity_rank(uid: UInt8[np.ndarray, "B 16"], dataset_index: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """Return each candidate's place in the order by uid (as bytes), then dataset_index; the smallest has rank 0."""
    words_B2 = np.ascontiguousarray(uid).view(">u8")
    order_B = np.lexsort((dataset_index, words_B2[:, 1], words_B2[:, 0]))
    rank_B = np.empty(len(order_B), dtype=np.int64)
    rank_B[order_B] = np.arange(len(order_B))
    return rank_B


def draw_largest(
    perturbed: Float[Tensor, " B"],
    n: int,
    *,
    rank: Int[Tensor, " B"],
    free: Bool[Tensor, " B"],
) -> Int[Tensor, " n"]:
    """Return the positions of the n largest values among the free, largest first, ties to the smaller rank.

    Positions that are not free are never looked at, so no value, -inf included, can bring one in. Where fewer than n
    are free, all of them are returned.
    Args:
        perturbed: gain * score + prior + noise; no NaN.
        n: how many, at least 1.
        rank: distinct, from `identity_rank`.
        free: which positions may be drawn.
    Cost: O(B + n log n).
    """
    free_F = free.nonzero().squeeze(1)
    value_F = perturbed[free_F]
    if len(free_F) > n:
        lowest = value_F.topk(n, sorted=False).values.min()
        above = free_F[value_F > lowest]
        level = free_F[value_F == lowest]
        level = level[rank[level].argsort()][: n - len(above)]
        free_F = torch.cat([above, level])
    by_rank_n = free_F[rank[free_F].argsort()]
    return by_rank_n[perturbed[by_rank_n].argsort(descending=True, stable=True)]
