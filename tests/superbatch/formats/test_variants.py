"""How many rows have each variant, and the rows of a slice by variant."""

from __future__ import annotations

from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.batch_rows import split_by_variant
from superbatch.formats.errors import InvalidInput
from superbatch.formats.variants import (
    positions_by_variant,
    trained_flops_fraction,
    variant_counts,
)
from tests.superbatch.formats.sample_batches import a_batch


@pytest.mark.parametrize(
    ("b", "shares", "counts"),
    [
        (8, [], (8,)),
        (8, [1.0], (8,)),
        (8, [0.5, 0.5], (4, 4)),
        (7, [0.5, 0.5], (4, 3)),  # equal remainders: the earlier one
        (8, [0.5, 0.25, 0.25], (4, 2, 2)),
        (10, [0.5, 0.25, 0.25], (5, 3, 2)),
        (10, [0.25, 0.25, 0.5], (3, 2, 5)),
        (100, [0.333, 0.333, 0.333], (34, 33, 33)),  # thirds within the tolerance
        (10_000, [0.333, 0.333, 0.333], (3334, 3333, 3333)),
        (5, [0.7, 0.3], (4, 1)),  # 3.5 and 1.5, a tie; the nearest fp64 numbers to 0.7 and 0.3 would give 3, 2
        (10, [0.1, 0.2, 0.7], (1, 2, 7)),  # 10 * 0.7 is exactly 7 here, and 0.1 + 0.2 + 0.7 exactly 1
        (1000, [0.291, 0.709], (291, 709)),  # 1000 * 0.291 is 290.99999999999994 in fp64
        (11, [0.26, 0.28, 0.46], (3, 3, 5)),  # 2.86, 3.08, 5.06
        (32768, [0.5, 0.5], (16384, 16384)),
    ],
)
def test_counts_are_those_of_the_largest_remainder(b: int, shares: list[float], counts: tuple[int, ...]) -> None:
    assert variant_counts(b, shares) == counts


@given(
    b=st.integers(60, 5000),  # the smallest share, 1 of 46, then has a row
    parts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_counts_sum_to_b_and_miss_their_quota_by_less_than_one(b: int, parts: list[int]) -> None:
    shares = [round(part / sum(parts), 5) for part in parts]
    counts = variant_counts(b, shares)
    assert sum(counts) == b
    total = sum(Fraction(str(share)) for share in shares)
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - b * Fraction(str(share)) / total) < 1


@pytest.mark.parametrize(
    ("b", "shares", "said"),
    [
        (8, [0.5, 0.4], r"sum to 1 within 0.001; got 0.9"),
        (8, [0.5, 0.5, 0.1], r"got 1.1"),
        (8, [0.5, 0.502], r"got 1.002"),
        (8, [1.0, 0.0], r"in \(0, 1\]; got 0"),
        (8, [1.5, -0.5], r"got 1.5"),
        (8, [float("nan"), 0.5], r"got nan"),
        (8, [0.99, 0.01], r"every variant must get a row of each batch; got counts \[8, 0\] for b = 8"),
    ],
)
def test_shares_that_cannot_be_kept_are_refused_with_the_numbers(b: int, shares: list[float], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        variant_counts(b, shares)


def test_a_slice_is_split_by_variant_in_slot_order() -> None:
    batch = a_batch(3, 6, variant=[1, 0, 0, 2, 1, 0]).combine_chunks().to_batches()[0]
    full, low, lowest = split_by_variant(batch.slice(1, 5), num_variants=3)
    assert isinstance(full, pa.RecordBatch)
    assert full.column("slot").to_pylist() == [1, 2, 5]
    assert low.column("slot").to_pylist() == [4]
    assert lowest.column("slot").to_pylist() == [3]
    assert [part.num_rows for part in split_by_variant(batch, num_variants=4)] == [3, 2, 1, 0]


def test_a_batch_of_one_variant_is_not_copied() -> None:
    batch = a_batch(0, 4)
    assert split_by_variant(batch, num_variants=1)[0] is batch


@pytest.mark.parametrize("variant", [2, -1])
def test_a_variant_that_the_manifest_does_not_have_is_refused(variant: int) -> None:
    with pytest.raises(InvalidInput, match=rf"in \[0, 2\); got {variant} \(row 1\)"):
        positions_by_variant([0, variant], num_variants=2)
    with pytest.raises(InvalidInput, match=r"in \[0, 1\); got 1 \(row 0\)"):
        split_by_variant(a_batch(0, 2, variant=[1, 0]), num_variants=1)


def test_half_a_batch_at_the_papers_low_resolution_costs_0_64() -> None:
    assert trained_flops_fraction((16384, 16384), (1.0, 0.28)) == pytest.approx(0.64, rel=1e-12)
    assert trained_flops_fraction((8,), ()) == 1.0
