from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection import slot_permutation
from superbatch.selection.noise import SLOT_ROUND
from tests.superbatch.selection import plain


def members(b: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (b, 16), dtype=np.uint8), rng.permutation(b).astype(np.int64)


def test_slots_follow_the_noise_of_the_last_round() -> None:
    uids, index = members(20)
    noise = [plain.gumbel(3, 4, SLOT_ROUND, uid.tobytes()) for uid in uids]
    expected = sorted(range(20), key=lambda i: -noise[i])
    assert slot_permutation(3, 4, uids=uids, dataset_index=index).tolist() == expected


def test_equal_uids_stand_by_dataset_index() -> None:
    index = np.array([30, 10, 20])
    assert slot_permutation(0, 0, uids=np.zeros((3, 16), np.uint8), dataset_index=index).tolist() == [1, 2, 0]


def test_a_lone_variant_stands_in_the_middle() -> None:
    uids, index = members(5)
    variant = np.array([0, 0, 1, 0, 0])
    slots = slot_permutation(0, 0, uids=uids, dataset_index=index, variant=variant)
    assert variant[slots].tolist() == [0, 0, 1, 0, 0]


def test_the_order_of_the_members_changes_nothing() -> None:
    uids, index = members(50)
    variant = np.repeat([0, 1, 2], [25, 15, 10])
    order = np.random.default_rng(1).permutation(50)
    first = slot_permutation(0, 7, uids=uids, dataset_index=index, variant=variant)
    second = slot_permutation(0, 7, uids=uids[order], dataset_index=index[order], variant=variant[order])
    np.testing.assert_array_equal(index[first], index[order][second])


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), times=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_aligned_slice_holds_the_same_mix(counts: list[int], times: int, seed: int) -> None:
    variant = np.repeat(np.arange(len(counts)), np.array(counts) * times)
    uids, index = members(len(variant), seed)
    slots = slot_permutation(seed, 0, uids=uids, dataset_index=index, variant=variant)
    assert sorted(slots) == list(range(len(variant)))
    for num_slices in range(1, times * math.gcd(*counts) + 1):
        if times * math.gcd(*counts) % num_slices:
            continue
        for piece in np.split(variant[slots], num_slices):
            mix = np.bincount(piece, minlength=len(counts)) * num_slices
            np.testing.assert_array_equal(mix, np.array(counts) * times)
