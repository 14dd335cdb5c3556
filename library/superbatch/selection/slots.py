"""Slot order: which variant each member of a batch has, and where it stands in the list.

Letters: b members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from superbatch.selection.errors import InvalidSelection
from superbatch.selection.methods.draw import identity_rank
from superbatch.selection.noise import SLOT_ROUND, VARIANT_ROUND, gumbel

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


def draw_variants(
    seed: int,
    seq: int,
    *,
    uids: UInt8[np.ndarray, "b 16"],
    dataset_index: Int[np.ndarray, " b"],
    counts: Sequence[int],
) -> Int[np.ndarray, " b"]:
    """Return the variant of each member: a seeded draw with exactly `counts[v]` members of variant v.

    The members in the order of their noise of VARIANT_ROUND, largest first, ties by uid, then dataset_index: the first
    counts[0] get variant 0, the next counts[1] variant 1, and so on. Neither the scores nor the order of the members on
    input change it, and it is independent of the slot order.
    Args:
        seed: of the job.
        seq: position of the batch.
        uids: identities of the members.
        dataset_index: tells equal uids apart.
        counts: members of each variant, see `superbatch.formats.variants.variant_counts`.
    Returns: variant of each member, in the order of the input.
    Raises:
        InvalidSelection: counts that do not sum to the number of members.
    Source: JEST (arXiv:2406.17711), Flexi-JEST: half of each batch at low resolution. Which half is ours.
    """
    b = len(dataset_index)
    if sum(counts) != b or min(counts) < 0:
        raise InvalidSelection(
            f"the counts of all variants must sum to the {b} members; got {list(counts)} (seq {seq}). "
            "Take them from variant_counts(b, shares)."
        )
    variant_b = np.empty(b, dtype=np.int64)
    variant_b[_drawn(seed, seq, round=VARIANT_ROUND, uids=uids, dataset_index=dataset_index)] = np.repeat(
        np.arange(len(counts)), counts
    )
    return variant_b


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
    therefore holds exactly 1/k of each variant; for other k the counts are as near as rounding lets them be where there
    are two variants, and may be one further off with more. The order of the members on input changes nothing.
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
    drawn_b = _drawn(seed, seq, round=SLOT_ROUND, uids=uids, dataset_index=dataset_index)
    aim_b = np.empty(b)
    for each in np.unique(variant_b):
        members_c = drawn_b[variant_b[drawn_b] == each]
        aim_b[members_c] = (np.arange(len(members_c)) + 0.5) / len(members_c)
    return drawn_b[np.lexsort((variant_b[drawn_b], aim_b[drawn_b]))]


def in_slots(
    seed: int,
    seq: int,
    *,
    uids: UInt8[np.ndarray, "b 16"],
    dataset_index: Int[np.ndarray, " b"],
    counts: Sequence[int],
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Return which member stands in each slot, and the variant of each slot.

    `draw_variants`, then `slot_permutation` with what it drew. Args, Raises: as there.
    """
    variant_b = draw_variants(seed, seq, uids=uids, dataset_index=dataset_index, counts=counts)
    slots_b = slot_permutation(seed, seq, uids=uids, dataset_index=dataset_index, variant=variant_b)
    return slots_b, variant_b[slots_b]


def _drawn(
    seed: int, seq: int, *, round: int, uids: UInt8[np.ndarray, "b 16"], dataset_index: Int[np.ndarray, " b"]
) -> Int[np.ndarray, " b"]:
    """Return the members by their noise of the round, largest first, ties by uid, then dataset_index."""
    noise_b = gumbel(seed, seq, round=round, uids=uids)
    drawn_b: np.ndarray = np.lexsort((identity_rank(uids, dataset_index), -noise_b))
    return drawn_b
