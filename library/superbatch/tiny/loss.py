"""The sigmoid loss that the tiny encoder is trained with.

B examples, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sigmoid_loss(image_BD: Tensor, text_BD: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return the sigmoid loss over all B x B pairs, divided by B.

    Pair (i, j) has the logit scale * <image_i, text_j> + bias and the label +1 on the diagonal, -1 elsewhere.
    Source: SigLIP (arXiv:2303.15343), Algorithm 1.
    """
    logits_BB = image_BD @ text_BD.T * scale + bias
    labels_BB = 2.0 * torch.eye(len(logits_BB), device=logits_BB.device, dtype=logits_BB.dtype) - 1.0
    return functional.softplus(-labels_BB * logits_BB).sum() / len(logits_BB)
