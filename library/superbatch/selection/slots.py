"""Slot order: where each member of a batch stands in the list.

Letters: b members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from superbatch.selection.methods.draw import identity_rank
from superbatch.selection.noise import SLOT_ROUND, gumbel

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


def slot_permutation(
    seed: int,
    seq: int,
    *,
    uids: UInt8[np.ndarray, "b 16"],
    dataset_index: Int[np.ndarray, " b"],
    variant: Int[np.ndarray, " b"] | None = None,
) -> Int[np.ndarray, " b"]:
    """Return which member stands in each slot: a seeded permutation, stratified by variant.

    Members of one variant stand in the order of their noise of SLOT_ROUND, largest first, ties by uid, then
    dataset_index. The variants are merged evenly: the j-th of the c members of a variant (from 0) aims at the fraction
    (j + 1/2) / c of the list. For every k that divides the count of each variant, each aligned slice of b/k slots
    therefore holds exactly 1/k of each variant; for other k the counts are as near as rounding lets them be. The order
    of the members on input changes nothing.
    Args:
        seed: of the job.
        seq: position of the batch.
        uids: identities of the members.
        dataset_index: tells equal uids apart.
        variant: of each member; None = all alike.
    Returns: positions among the members; slot s holds member result[s].
    Source: trainer-contract.md, "Batch list".
    """
    b = len(dataset_index)
    variant_b = np.zeros(b, dtype=np.int64) if variant is None else variant
    noise_b = gumbel(seed, seq, round=SLOT_ROUND, uids=uids)
    drawn_b = np.lexsort((identity_rank(uids, dataset_index), -noise_b))
    aim_b = np.empty(b)
    for each in np.unique(variant_b):
        members_c = drawn_b[variant_b[drawn_b] == each]
        aim_b[members_c] = (np.arange(len(members_c)) + 0.5) / len(members_c)
    return drawn_b[np.lexsort((variant_b[drawn_b], aim_b[drawn_b]))]
