"""The sigmoid loss of SigLIP on embeddings: of each pair, of a set, and each member's own share of a set.

Logits L_ij = t * <image_i, text_j> + bias. Pair loss P_ij = softplus(-L_ij) if i = j, else softplus(L_ij). For one row
with cosine 1, t = 10 and bias = -10 the logit is 0 and the loss log 2; a second row, orthogonal to the first in both
towers, adds its own log 2 and two negatives of softplus(-10) = 0.0000454.

Letters: B rows, D width, b members of a set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from superbatch.selection.candidates import DualEmbeddings, at_least_float32
from superbatch.selection.pairs.engine import PairReduction
from superbatch.selection.pairs.opening import open_engine

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor


def diagonal_loss(model: DualEmbeddings) -> Float64[Tensor, " B"]:
    """Return P_ii = softplus(-L_ii), the loss of each pair alone.

    Args:
        model: embeddings of B rows.
    Returns: fp64 [B], in nats; the cosine is summed in the embeddings' own type.
    Cost: 2*B*D FLOPs.
    Source: SigLIP (arXiv:2303.15343), equation 1, the terms i = j, without the mean.
    """
    cosine_B = (at_least_float32(model.image) * at_least_float32(model.text)).sum(1).double()
    return -logsigmoid(cosine_B * model.logit_scale + model.logit_bias)


def own_conditional_loss(members: DualEmbeddings) -> Float64[Tensor, " b"]:
    """Return what each member adds to the loss of the finished set: P_ii + sum over other members k of (P_ki + P_ik).

    This is the loss of the set minus the loss of the set without i, so it is the score's own definition read at the end
    of the selection: learner minus reference is the rise of the batch's learnability by i, given all the others. Each
    negative counts for both of its rows, so the sum over i exceeds the loss of the set by its negatives.
    Args:
        members: embeddings of the b members, in any order.
    Returns: fp64 [b], in nats.
    Cost: 2 products of 2*b*b*D FLOPs; memory O(b).
    Source: trainer-contract.md, columns loss_learner and loss_reference.
    """
    image_bD, text_bD = at_least_float32(members.image), at_least_float32(members.text)
    own_b = torch.arange(len(members), device=image_bD.device)
    requests = [
        PairReduction(left, right, members.logit_scale, members.logit_bias, how="softplus_sum", own=own_b)
        for left, right in ((image_bD, text_bD), (text_bD, image_bD))
    ]
    with open_engine(len(members), device=image_bD.device, compute_dtype=image_bD.dtype) as engine:
        sums = engine.reduce(requests)
    return diagonal_loss(members) + sums[0] + sums[1]


def set_loss(members: DualEmbeddings) -> float:
    """Return the loss of a set: the sum of P_ij over all ordered pairs (i, j) of members, in nats.

    Cost: as `own_conditional_loss`.
    Source: SigLIP (arXiv:2303.15343), equation 1, times the number of rows.
    """
    return float(torch.sum(own_conditional_loss(members) + diagonal_loss(members)) / 2)
