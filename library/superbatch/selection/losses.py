"""The two losses on embeddings: of each pair alone, of a set, and each member's own share of a set.

Logits L_ij = t * <image_i, text_j> + bias, t and bias of one model.

    sigmoid (SigLIP)   P_ij = softplus(-L_ij) if i = j, else softplus(L_ij); the loss of a set is the sum over all
                       ordered pairs (i, j) of it
    softmax (CLIP)     l_i = 1/2 [LSE_j(L_ij) - L_ii + LSE_j(L_ji) - L_ii], j over the set, i included; the loss of a
                       set is the sum of its l_i

For one row with cosine 1, t = 10 and bias = -10 the logit is 0: its sigmoid loss is log 2, its softmax loss 0. A second
row, orthogonal to the first in both towers, adds to the sigmoid loss its own log 2 and two negatives of
softplus(-10) = 0.0000454; under softmax each of the two then has a loss of log(1 + e^-10) = 0.0000454. A bias moves
every logit alike, so the softmax loss never reads it.

Letters: B rows, D width, b members of a set, m rows of a probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from superbatch.selection.candidates import DualEmbeddings, at_least_float32
from superbatch.selection.pairs.engine import How, PairReduction
from superbatch.selection.pairs.opening import open_engine
from superbatch.selection.spec import Loss

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64, Int
    from torch import Tensor


def diagonal_loss(model: DualEmbeddings, *, loss: Loss = "sigmoid") -> Float64[Tensor, " B"]:
    """Return the loss of each pair alone, as a set of one: P_ii = softplus(-L_ii); under softmax 0.

    The softmax loss of a lone pair is 0 whatever its embeddings are, since it has no other to be confused with:
    `probe_loss` is what tells one row from another there.
    Args:
        model: embeddings of B rows.
        loss: sigmoid or softmax.
    Returns: fp64 [B], in nats; the cosine is summed in the embeddings' own type.
    Cost: 2*B*D FLOPs.
    Source: SigLIP (arXiv:2303.15343), equation 1, the terms i = j, without the mean.
    """
    if loss == "softmax":
        return torch.zeros(len(model), dtype=torch.float64, device=model.image.device)
    return -logsigmoid(_pair_cosine(model) * model.logit_scale + model.logit_bias)


def probe_loss(model: DualEmbeddings, probe: Int[np.ndarray, " m"]) -> Float64[Tensor, " B"]:
    """Return the softmax loss of each row in the company of a probe: l_i in the set {i} + probe.

    This is what an example is scored by while nothing is chosen: the score of round 1 is w_l * (this of the learner) +
    w_r * (this of the reference). A row of the probe counts itself once.
    Args:
        model: embeddings of B rows.
        probe: positions among the B, distinct; `methods.softmax.probe_index` gives those of a selection.
    Returns: fp64 [B], in nats, at least 0; 0 where the probe holds nothing but i.
    Cost: 2 products of 2*B*m*D FLOPs; memory O(B + m*D).
    Source: selection.md, "Joint selection, softmax".
    """
    return _softmax_loss_among(model, model.take(probe), own=torch.as_tensor(probe, device=model.image.device))


def own_conditional_loss(members: DualEmbeddings, *, loss: Loss = "sigmoid") -> Float64[Tensor, " b"]:
    """Return each member's own loss within the finished set.

    Sigmoid: P_ii + sum over other members k of (P_ki + P_ik). This is the loss of the set minus the loss of the set
    without i, so it is the score's own definition read at the end of the selection: learner minus reference is the rise
    of the batch's learnability by i, given all the others. Each negative counts for both of its rows, so the sum over i
    exceeds the loss of the set by its negatives.
    Softmax: l_i, whose sum is the loss of the set. It is the score's definition (the conditional loss) too; what i adds
    to the losses of the others is not in it.
    Args:
        members: embeddings of the b members, in any order.
        loss: sigmoid or softmax.
    Returns: fp64 [b], in nats.
    Cost: 2 products of 2*b*b*D FLOPs; memory O(b).
    Source: trainer-contract.md, columns loss_learner and loss_reference.
    """
    own_b = torch.arange(len(members), device=members.image.device)
    if loss == "softmax":
        return _softmax_loss_among(members, members, own=own_b)
    negatives = _both_directions(
        members, members, how="softplus_sum", scale=members.logit_scale, bias=members.logit_bias, own=own_b
    )
    return diagonal_loss(members) + negatives[0] + negatives[1]


def set_loss(members: DualEmbeddings, *, loss: Loss = "sigmoid") -> float:
    """Return the loss of a set, in nats: the sum, not the mean.

    Sigmoid: the sum of P_ij over all ordered pairs (i, j) of members. Softmax: the sum of l_i over members.

    Cost: as `own_conditional_loss`.
    Source: SigLIP (arXiv:2303.15343), equation 1; CLIP (arXiv:2103.00020), figure 3; each times the number of rows.
    """
    own_b = own_conditional_loss(members, loss=loss)
    return float(own_b.sum() if loss == "softmax" else (own_b + diagonal_loss(members)).sum() / 2)


def _pair_cosine(model: DualEmbeddings) -> Float64[Tensor, " B"]:
    return (at_least_float32(model.image) * at_least_float32(model.text)).sum(1).double()


def _softmax_loss_among(
    model: DualEmbeddings, others: DualEmbeddings, *, own: Int[Tensor, " m"]
) -> Float64[Tensor, " B"]:
    """Return l_i in the set {i} + others; `own` says at which i each of the others stands.

    LSE over i and others, less L_ii, is softplus(LSE over the others - L_ii): no digit is lost where it is small.
    """
    own_logit_B = _pair_cosine(model) * model.logit_scale
    both = _both_directions(model, others, how="log_sum_exp", scale=model.logit_scale, bias=0.0, own=own)
    return -(logsigmoid(own_logit_B - both[0]) + logsigmoid(own_logit_B - both[1])) / 2


def _both_directions(
    model: DualEmbeddings, others: DualEmbeddings, *, how: How, scale: float, bias: float, own: Int[Tensor, " m"]
) -> list[Float64[Tensor, " B"]]:
    """Return for each row of `model` the reduction over its logits with the others, as image and as text."""
    pairs = ((model.image, others.text), (model.text, others.image))
    requests = [PairReduction(left, right, scale, bias, how=how, own=own) for left, right in pairs]
    compute_dtype = torch.promote_types(model.image.dtype, torch.float32)
    with open_engine(len(model), device=model.image.device, compute_dtype=compute_dtype) as engine:
        return engine.reduce(requests)
