"""Joint selection that keeps its B x B matrix: as the paper prints it, and with sums that run.

All are given the noise of the selection that they are compared with, so they choose the same rows but for rounding.

Letters: B candidates, b in all, n drawn in one round.
"""

from __future__ import annotations

import numpy as np
import torch

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec
from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.noise import gumbel


def as_printed(candidates: Candidates, spec: SelectionSpec) -> list[int]:
    """Return the choice of Algorithm 1 line by line as it is printed, in numpy, given the scores in float32.

    Its indicator is a row of an eye of B x B, in float64, so the sums of each round are in float64 too. One departure:
    the draw takes the largest perturbed logits, which is the same distribution.
    """
    scores = learnability_matrix(candidates).numpy()
    n_images = len(scores)
    sizes = chunk_sizes(spec.b, spec.num_chunks)
    logits_ii = np.diag(scores)
    inds = _draw(logits_ii, sizes[0], spec, candidates, round_index=1)
    for round_index, n_draws in enumerate(sizes[1:], start=2):
        is_sampled = np.eye(n_images)[inds].sum(axis=0)
        logits_ij = (scores * is_sampled.reshape(n_images, 1)).sum(axis=0)
        logits_ji = (scores * is_sampled.reshape(1, n_images)).sum(axis=1)
        logits = logits_ii + logits_ij + logits_ji
        logits = logits - is_sampled * 1e8
        new_inds = _draw(logits, n_draws, spec, candidates, round_index)
        inds = np.concatenate((inds, new_inds))
    return [int(index) for index in inds]


def as_printed_in_torch(candidates: Candidates, spec: SelectionSpec) -> list[int]:
    """Return what `as_printed` does with the same masks and full sums, all in float32 and on all of torch's threads."""
    S_BB = learnability_matrix(candidates)
    is_chosen_B = torch.zeros(len(S_BB))
    chosen: list[int] = []
    for round_index, n in enumerate(chunk_sizes(spec.b, spec.num_chunks), start=1):
        score_B = S_BB.diag()
        if chosen:
            score_B = score_B + (S_BB * is_chosen_B[:, None]).sum(0) + (S_BB * is_chosen_B[None, :]).sum(1)
        new_n = _draw((score_B - is_chosen_B * 1e8).numpy(), n, spec, candidates, round_index)
        is_chosen_B[new_n] = 1.0
        chosen += new_n.tolist()
    return chosen


def with_gathers(candidates: Candidates, spec: SelectionSpec) -> list[int]:
    """Return the same choice by running sums: the matrix once, and rows and columns of the new chosen after a round."""
    S_BB = learnability_matrix(candidates)
    score_B = S_BB.diag().clone()
    chosen: list[int] = []
    new_n = np.empty(0, dtype=np.int64)
    for round_index, n in enumerate(chunk_sizes(spec.b, spec.num_chunks), start=1):
        if chosen:
            score_B += S_BB[new_n, :].sum(0) + S_BB[:, new_n].sum(1)
            score_B[new_n] = -1e8
        new_n = _draw(score_B.numpy(), n, spec, candidates, round_index)
        chosen += new_n.tolist()
    return chosen


def learnability_matrix(candidates: Candidates) -> torch.Tensor:
    """Return S_BB, learner loss minus reference loss of every pair."""
    assert candidates.learner is not None
    assert candidates.reference is not None
    return _pair_losses(candidates.learner).sub_(_pair_losses(candidates.reference))


def _pair_losses(model: DualEmbeddings) -> torch.Tensor:
    logits_BB = model.image @ model.text.T
    logits_BB.mul_(model.logit_scale).add_(model.logit_bias)
    logits_BB.diagonal().neg_()
    return torch.nn.functional.softplus(logits_BB)


def _draw(logits_B: np.ndarray, n: int, spec: SelectionSpec, candidates: Candidates, round_index: int) -> np.ndarray:
    noise_B = gumbel(spec.seed, spec.seq, round=round_index, uids=candidates.uid)
    return np.argpartition(-(spec.gain * logits_B + noise_B), n - 1)[:n]
