"""Sums of pair losses by blocks: no B x B, nor even a B x n, array is ever made.

Letters: B candidates, n chosen, D width; C candidates and K chosen of one tile. A tile has 2K rows, one column per
candidate i: the logits L_ki (image k, text i) above, the logits L_ik (image i, text k) below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from superbatch.selection.block_threads import CHOSEN_BLOCK, BlockThreads, Workspace
from superbatch.selection.candidates import DualEmbeddings
from superbatch.selection.draw import chunk_sizes

if TYPE_CHECKING:
    from jaxtyping import Float, Float64
    from torch import Tensor

# The product of 16 factors, each at most 2, is at most 2^16: no overflow in any type. Longer groups save little:
# one logarithm per 16 entries is about a tenth of the exponentials' cost, and each level of joining is two more passes.
_GROUP = 16

# exp of less runs into subnormal numbers, at 14 to 40 times the cost (measured). A pair loss this small changes no sum.
_LOWEST_EXPONENT = {torch.float32: -40.0, torch.float64: -300.0}


@dataclass(frozen=True)
class Negatives:
    """One model's part of a sum: the rows i, the rows k they are paired with, and the signed weight of their loss."""

    weight: float
    candidates: DualEmbeddings
    chosen: DualEmbeddings
    same_rows: bool = False


def add_negative_losses(total: Float64[Tensor, " B"], parts: Sequence[Negatives], *, threads: BlockThreads) -> None:
    """Add to total[i], for each part, weight * the sum over its chosen k of (P_ki + P_ik), every pair a negative.

    P_ki = softplus(L_ki) with L_ki = t * <image_k, text_i> + bias, under the part's own model. No pair is left out
    unless `same_rows`: then row k of `chosen` is row k of `candidates`, and the pairs k = i are left out.
    Args:
        total: changed in place; sums of a tile are taken in the embeddings' type and kept in fp64.
        parts: in the order in which they are added.
        threads: made for the number of candidates and their device.
    Cost: per part 2 products of 2*B*n*D FLOPs; memory n*D, and two tiles per thread, whatever B and n.
    Source: selection.md, "Joint selection, sigmoid".
    """
    scaled = threads.on_one_core(lambda: [_scaled(part.chosen) for part in parts])

    def add_block(start: int, stop: int, workspace: Workspace) -> None:
        for part, chosen in zip(parts, scaled, strict=True):
            first = 0
            for K in chunk_sizes(len(chosen), -(-len(chosen) // CHOSEN_BLOCK)):
                sum_C = _tile_sum(part, chosen, rows=(start, stop), others=(first, first + K), workspace=workspace)
                total[start:stop].add_(sum_C, alpha=part.weight)
                first += K

    threads.for_each_block(add_block)


def _scaled(chosen: DualEmbeddings) -> DualEmbeddings:
    return chosen.map_towers(lambda tower_nD: tower_nD * chosen.logit_scale)


def _tile_sum(
    part: Negatives, scaled: DualEmbeddings, *, rows: tuple[int, int], others: tuple[int, int], workspace: Workspace
) -> Float[Tensor, " C"]:
    (start, stop), (first, last) = rows, others
    K = last - first
    image_CD, text_CD = part.candidates.image[start:stop], part.candidates.text[start:stop]
    logits_2KC, scratch_2KC = workspace.tile(2 * K, stop - start, dtype=image_CD.dtype)
    torch.mm(scaled.image[first:last], text_CD.T, out=logits_2KC[:K])
    torch.mm(scaled.text[first:last], image_CD.T, out=logits_2KC[K:])
    if part.same_rows:
        logits_2KC[:K].diagonal(first - start).fill_(-torch.inf)
        logits_2KC[K:].diagonal(first - start).fill_(-torch.inf)
    logits_2KC.add_(scaled.logit_bias)
    return softplus_sum(logits_2KC, scratch=scratch_2KC)


def softplus_sum(logits: Float[Tensor, "R C"], *, scratch: Float[Tensor, "R C"]) -> Float[Tensor, " C"]:
    """Return the sum over rows of softplus(logits), and destroy both arguments.

    softplus(L) = max(L, 0) + log(1 + e^-|L|), and a sum of logarithms is one logarithm of a product: groups of at most
    16 rows share one log1p, and no factor exceeds 2. A product is kept as q = (product - 1), joined by
    q = q_1 + q_2 + q_1*q_2, so that losses far below the rounding of 1 (young models, L near -10) keep their digits.
    Args:
        logits: any finite values, or -inf, which adds 0.
        scratch: a buffer of the same shape.
    Cost: one exp per entry, one log1p per 16 entries, no memory but the result.
    """
    torch.clamp_min(logits, 0.0, out=scratch)
    total_C = scratch.sum(0)
    torch.sub(logits, scratch, alpha=2.0, out=logits)  # L - 2 max(L, 0) = -|L|
    q_RC = logits.clamp_min_(_LOWEST_EXPONENT[logits.dtype]).exp_()
    num_rows, group = len(q_RC), 1
    while num_rows > 1 and group < _GROUP:
        half = num_rows // 2
        left, right = q_RC[:half], q_RC[num_rows - half : num_rows]
        left.addcmul_(left, right).add_(right)
        num_rows, group = num_rows - half, 2 * group
    return total_C.add_(q_RC[:num_rows].log1p_().sum(0))
