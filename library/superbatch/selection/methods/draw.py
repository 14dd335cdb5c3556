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
    first_B = words_B2[:, 0].astype(np.uint64)
    order_B = np.argsort(first_B)
    if (first_B[order_B[1:]] == first_B[order_B[:-1]]).any():  # rare: four times the time
        order_B = np.lexsort((dataset_index, words_B2[:, 1], words_B2[:, 0]))
    rank_B = np.empty(len(order_B), dtype=np.int64)
    rank_B[order_B] = np.arange(len(order_B))
    return rank_B


def identity_rank_on(
    device: torch.device, uid: UInt8[np.ndarray, "B 16"], dataset_index: Int[np.ndarray, " B"]
) -> Int[Tensor, " B"]:
    """Return `identity_rank` on the device, and sort there: on the host the products of a GPU would wait for it."""
    if device.type == "cpu":
        return torch.from_numpy(identity_rank(uid, dataset_index))
    # The device sorts signed numbers: with the top bit turned over they have the order of the bytes.
    words_B2 = np.ascontiguousarray(uid).view(">u8").astype(np.uint64) ^ np.uint64(2**63)
    order_B = torch.arange(len(uid), device=device)
    for key_B in (np.array(dataset_index), words_B2[:, 1], words_B2[:, 0]):
        on_device_B = torch.from_numpy(np.ascontiguousarray(key_B).view(np.int64)).to(device)
        order_B = order_B[on_device_B[order_B].argsort(stable=True)]
    return torch.empty_like(order_B).scatter_(0, order_B, torch.arange(len(uid), device=device))


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
    if len(free) > n and free.device.type == "cpu":  # a GPU sorts them all sooner than its host waits for a number
        lowest = torch.where(free, perturbed, -torch.inf).topk(n, sorted=False).values.min()
        free = free & (perturbed >= lowest)
    free_F = free.nonzero().squeeze(1)  # the one wait for the device in a round
    by_rank_n = free_F[rank[free_F].argsort()]
    return by_rank_n[perturbed[by_rank_n].argsort(descending=True, stable=True)[:n]]
