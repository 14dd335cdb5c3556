from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection.errors import InvalidSelection
from superbatch.selection.noise import PROBE_ROUND, SLOT_ROUND, gumbel, noise_bits
from tests.superbatch.selection import plain

U64 = st.integers(0, 2**64 - 1)
KNOWN_BITS = {
    (0, 0, 1): ["0x64b2abece43e5f7e", "0xafe031d3ca10b9db"],
    (2**64 - 1, 7, SLOT_ROUND): ["0xe2b3e5daca189d6c", "0x5c286890ec5f21f"],
}
KNOWN_GUMBEL = [0.06929419250142502, 0.9797642041821453]
UIDS = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=5)


def as_array(uids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(uids), dtype=np.uint8).reshape(-1, 16)


def test_known_values_stay_for_ever() -> None:
    # Computed by plain.noise_hash. A change here changes every published batch list.
    uids = as_array([bytes(16), bytes(range(16))])
    assert [hex(h) for h in noise_bits(0, 0, round=1, uids=uids)] == KNOWN_BITS[(0, 0, 1)]
    assert [hex(h) for h in noise_bits(2**64 - 1, 7, round=SLOT_ROUND, uids=uids)] == KNOWN_BITS[
        (2**64 - 1, 7, SLOT_ROUND)
    ]
    np.testing.assert_allclose(gumbel(0, 0, round=1, uids=uids), KNOWN_GUMBEL, rtol=1e-14)


@given(U64, U64, st.integers(0, 2**32 - 1), UIDS)
def test_equals_the_plain_integers(seed: int, seq: int, round_index: int, uids: list[bytes]) -> None:
    bits_B = noise_bits(seed, seq, round=round_index, uids=as_array(uids))
    assert [int(h) for h in bits_B] == [plain.noise_hash(seed, seq, round_index, uid) for uid in uids]
    expected_B = [plain.gumbel(seed, seq, round_index, uid) for uid in uids]
    np.testing.assert_allclose(gumbel(seed, seq, round=round_index, uids=as_array(uids)), expected_B, rtol=1e-12)


@given(UIDS)
def test_halves_and_bytes_give_the_same_noise(uids: list[bytes]) -> None:
    halves_B2 = np.array(
        [[int.from_bytes(uid[:8], "little"), int.from_bytes(uid[8:], "little")] for uid in uids], np.uint64
    )
    np.testing.assert_array_equal(gumbel(1, 2, round=3, uids=halves_B2), gumbel(1, 2, round=3, uids=as_array(uids)))


def test_noise_belongs_to_the_uid_and_not_to_its_place() -> None:
    uids = np.random.default_rng(0).integers(0, 256, (100, 16), dtype=np.uint8)
    noise_B = gumbel(1, 2, round=3, uids=uids)
    np.testing.assert_array_equal(gumbel(1, 2, round=3, uids=uids[::-1]), noise_B[::-1])
    np.testing.assert_array_equal(gumbel(1, 2, round=3, uids=uids[40:50]), noise_B[40:50])


def test_every_part_of_the_counter_matters() -> None:
    uids = np.random.default_rng(0).integers(0, 256, (1000, 16), dtype=np.uint8)
    first_B = gumbel(2, 3, round=1, uids=uids)
    for seed, seq, round_index in ((3, 2, 1), (2, 4, 1), (3, 3, 1), (2, 3, 2), (2, 3, PROBE_ROUND), (2, 3, SLOT_ROUND)):
        other_B = gumbel(seed, seq, round=round_index, uids=uids)
        assert abs(np.corrcoef(first_B, other_B)[0, 1]) < 0.15, (seed, seq, round_index)


def test_noise_is_standard_gumbel() -> None:
    uids = np.random.default_rng(0).integers(0, 256, (200_000, 16), dtype=np.uint8)
    below_B = np.exp(-np.exp(-gumbel(5, 6, round=7, uids=uids)))
    counts, _ = np.histogram(below_B, bins=100, range=(0, 1))
    bins = {(k,): 0.01 for k in range(100)}
    assert plain.chi_square_p({(k,): int(count) for k, count in enumerate(counts)}, bins) > 1e-3


def test_the_extreme_hashes_give_finite_noise() -> None:
    for top_bits in (0, 2**52 - 1):
        u = (np.float64(top_bits) + 0.5) * 2.0**-52
        assert 0 < u < 1
        assert np.isfinite(-np.log(-np.log(u)))


@pytest.mark.parametrize(
    ("seed", "seq", "round_index", "named"), [(-1, 0, 0, "seed"), (0, 2**64, 0, "seq"), (0, 0, 2**32, "round")]
)
def test_a_counter_that_does_not_fit_is_named(seed: int, seq: int, round_index: int, named: str) -> None:
    with pytest.raises(InvalidSelection, match=f"{named} must fit"):
        gumbel(seed, seq, round=round_index, uids=np.zeros((1, 16), np.uint8))


@pytest.mark.parametrize("uids", [np.zeros(16, np.uint8), np.zeros((2, 8), np.uint8), np.zeros((2, 2), np.int64)])
def test_uids_of_another_form_are_refused(uids: np.ndarray) -> None:
    with pytest.raises(InvalidSelection, match="uids must be"):
        gumbel(0, 0, round=1, uids=uids)
