"""Taking the largest, with ties that do not depend on the order of the candidates.

Letters: B candidates, n drawn in one round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8


def identity_rank(uid: UInt8[np.ndarray, "B 16"], dataset_index: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """Return each candidate's place in the order by uid (as bytes), then dataset_index; the smallest has rank 0."""
    words_B2 = np.ascontiguousarray(uid).view(">u8")
    order_B = np.lexsort((dataset_index, words_B2[:, 1], words_B2[:, 0]))
    rank_B = np.empty(len(order_B), dtype=np.int64)
    rank_B[order_B] = np.arange(len(order_B))
    return rank_B


def draw_largest(
    perturbed: Float[np.ndarray, " B"],
    n: int,
    *,
    rank: Int[np.ndarray, " B"],
    free: Bool[np.ndarray, " B"],
) -> Int[np.ndarray, " n"]:
    """Return the positions of the n largest values among the free, largest first, ties to the smaller rank.

    Positions that are not free are never looked at, so no value, -inf included, can bring one in.
    Args:
        perturbed: gain * score + prior + noise; no NaN.
        n: how many, at most the number of free positions.
        rank: distinct, from `identity_rank`.
        free: which positions may be drawn.
    Cost: O(B + n log n).
    """
    free_F = np.flatnonzero(free)
    value_F = perturbed[free_F]
    assert len(free_F) >= n, "checked at the edge: TooFewCandidates"
    lowest = np.partition(value_F, len(value_F) - n)[len(value_F) - n]
    above = free_F[value_F > lowest]
    level = free_F[value_F == lowest]
    level = level[np.argsort(rank[level])][: n - len(above)]
    drawn_n = np.concatenate([above, level])
    order_n = np.lexsort((rank[drawn_n], -perturbed[drawn_n]))
    return drawn_n[order_n]


def chunk_sizes(b: int, num_chunks: int) -> list[int]:
    """Return how many each round draws: b in all, as even as can be, the remainder spread over the rounds.

    10 in 4 rounds: 2, 3, 2, 3. The paper floors b/N and so chooses fewer than b where N does not divide it.
    """
    return [(r + 1) * b // num_chunks - r * b // num_chunks for r in range(num_chunks)]
