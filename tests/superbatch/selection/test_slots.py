from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.slices import slot_range
from superbatch.selection import InvalidSelection, draw_variants, slot_permutation
from superbatch.selection.noise import SLOT_ROUND, VARIANT_ROUND
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


def test_variants_follow_the_noise_of_their_own_round() -> None:
    uids, index = members(20)
    noise = [plain.gumbel(3, 4, VARIANT_ROUND, uid.tobytes()) for uid in uids]
    ranked = sorted(range(20), key=lambda i: -noise[i])
    variant = draw_variants(3, 4, uids=uids, dataset_index=index, counts=(9, 6, 5))
    assert [variant[i] for i in ranked] == [0] * 9 + [1] * 6 + [2] * 5


def test_the_variant_of_equal_uids_goes_by_dataset_index() -> None:
    index = np.array([30, 10, 20])
    found = draw_variants(0, 0, uids=np.zeros((3, 16), np.uint8), dataset_index=index, counts=(1, 1, 1))
    assert found.tolist() == [2, 0, 1]


def test_each_member_is_full_in_its_share_of_the_batches() -> None:
    # Over 400 batches a member is full Binomial(400, 3/8) times: within 6 standard deviations, p below 1e-7 for all.
    uids, index = members(8)
    times = sum(draw_variants(1, seq, uids=uids, dataset_index=index, counts=(3, 5)) == 0 for seq in range(400))
    deviation = math.sqrt(400 * 3 / 8 * 5 / 8)
    assert np.abs(times - 150).max() < 6 * deviation


@pytest.mark.parametrize("counts", [(9, 10), (21,), (25, -5)])
def test_counts_that_are_not_of_the_members_are_refused(counts: tuple[int, ...]) -> None:
    uids, index = members(20)
    with pytest.raises(InvalidSelection, match="must sum to the 20 members"):
        draw_variants(0, 0, uids=uids, dataset_index=index, counts=counts)


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), times=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_slice_of_every_rank_and_micro_step_holds_the_same_mix_whatever_the_order_of_the_members(
    counts: list[int], times: int, seed: int
) -> None:
    counts = [count * times for count in counts]
    b = sum(counts)
    uids, index = members(b, seed)
    order = np.random.default_rng(seed).permutation(b)

    def slots_of(order: np.ndarray) -> tuple[list[int], np.ndarray]:
        variant = draw_variants(seed, 5, uids=uids[order], dataset_index=index[order], counts=counts)
        slots = slot_permutation(seed, 5, uids=uids[order], dataset_index=index[order], variant=variant)
        return index[order][slots].tolist(), variant[slots]

    rows, variant = slots_of(np.arange(b))
    rows_again, variant_again = slots_of(order)
    assert rows == rows_again
    assert variant.tolist() == variant_again.tolist()
    whole = math.gcd(*counts)
    for parts in (k for k in range(1, whole + 1) if whole % k == 0):
        for world_size in (k for k in range(1, parts + 1) if parts % k == 0):
            for piece in range(parts):
                rank, micro = divmod(piece, parts // world_size)
                own = slot_range(b, rank, world_size=world_size, accumulation=parts // world_size, micro=micro)
                mix = np.bincount(variant[own.start : own.stop], minlength=len(counts))
                assert (mix * parts).tolist() == counts
