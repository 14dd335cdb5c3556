"""Variants of a batch: how many rows are shown how, and which positions of a slice have which variant.

A variant is a way to show an example to the model (resolution, patch). Variant 0 is the full one. Which row has which
variant stands in the column `variant` of a batch list; what a variant is stands in `policy.variants` of the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from superbatch.formats.errors import InvalidInput

MAX_VARIANTS = 16
"""More than anybody needs, and far below what the column's type holds."""

SHARES_TOLERANCE = 0.001
"""What the shares of all variants may miss 1 by, so that thirds can be written as 0.333."""


def variant_counts(b: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return how many of b rows have each variant: the largest-remainder method, in exact arithmetic.

    Each share is read as the decimal number that it is written as (0.1 is one tenth) and divided by the sum of all.
    Variant v gets the whole part of b * share_v; the rows left over go one each to the largest fractional parts, of
    equal ones to the earlier variant. Example: b = 8, shares 0.5, 0.25, 0.25 give 4, 2, 2; b = 10 gives 5, 3, 2.

    Args:
        b: rows of a batch, at least 1.
        shares: one per variant, each above 0, their sum within 0.001 of 1; none = every row is full.
    Returns:
        One count per variant, their sum exactly b; (b,) without shares.
    Raises:
        InvalidInput: shares out of range, or a variant that would get no row.
    Source: trainer-contract.md, `variant`; the rounding is ours.
    """
    if not shares:
        return (b,)
    exact = [_exact(share) for share in shares]
    total = sum(exact, Fraction())
    if abs(total - 1) > Fraction(str(SHARES_TOLERANCE)):
        raise InvalidInput(
            f"the shares of all variants must sum to 1 within {SHARES_TOLERANCE}; got {float(total):g} of "
            f"{list(shares)}. Change one of them."
        )
    quotas = [b * share / total for share in exact]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda v: (counts[v] - quotas[v], v))
    for v in by_remainder[: b - sum(counts)]:
        counts[v] += 1
    if 0 in counts:
        raise InvalidInput(
            f"every variant must get a row of each batch; got counts {counts} for b = {b} and shares {list(shares)}. "
            "Raise its share or b, or drop the variant."
        )
    return tuple(counts)


def positions_by_variant(variants: Sequence[int], *, num_variants: int) -> list[list[int]]:
    """Return the positions of each variant, in order; for rows that are not Arrow's, such as a list of Example.

    Args:
        variants: variant of each row.
        num_variants: len(manifest.policy.variants); 1 where that list is empty.
    Raises:
        InvalidInput: a variant outside [0, num_variants).
    """
    positions: list[list[int]] = [[] for _ in range(num_variants)]
    for position, variant in enumerate(variants):
        if not 0 <= variant < num_variants:
            raise InvalidInput(
                f"a variant must be in [0, {num_variants}); got {variant} (row {position}). "
                "Take the variants of the manifest that the batch came with."
            )
        positions[variant].append(position)
    return positions


def trained_flops_fraction(counts: Sequence[int], flops_fractions: Sequence[float]) -> float:
    """Return the FLOPs of training a batch relative to one whose rows are all full: the mean over its rows.

    Args:
        counts: rows per variant.
        flops_fractions: FLOPs of a row of each variant relative to a full one; none = every row is full.
    Returns: a fraction; 0.64 for halves at 1 and 0.28.
    """
    if not flops_fractions:
        return 1.0
    return sum(count * part for count, part in zip(counts, flops_fractions, strict=True)) / sum(counts)


def _exact(share: float) -> Fraction:
    if not 0 < share <= 1:
        raise InvalidInput(f"the share of a variant must be in (0, 1]; got {share}. Drop a variant that nobody trains.")
    return Fraction(str(share))
