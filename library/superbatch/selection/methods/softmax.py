"""The score of joint selection under the softmax loss, by running log-sum-exp.

Letters: B candidates, D width, n new chosen of one round, m rows of the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from superbatch.selection.candidates import Candidates
from superbatch.selection.exclusions import Copies, find_copies, log_prior_without_copies
from superbatch.selection.methods.draw import identity_rank_on
from superbatch.selection.methods.peers import Drawn, OneProcess, Peers
from superbatch.selection.methods.problem import Problem, ScoredModel
from superbatch.selection.noise import PROBE_ROUND, GumbelNoise, NoiseSource
from superbatch.selection.pairs.engine import PairReduction
from superbatch.selection.spec import SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Float64, Int
    from torch import Tensor


class SoftmaxRunningLogSumExp:
    """s_i = sum over models of w * l_i, where l_i is the softmax loss of i among the chosen and itself.

    Per model and direction one fp64 vector holds, for every candidate, the LSE of its logits with the chosen. With
    a = that LSE, l_i of the direction is logaddexp(a, L_ii) - L_ii = softplus(a - L_ii): never negative, and exact to
    the last digits where it is small. With nothing chosen it is 0 for every i, so round 1 has another score: see
    `first_round_score`. The bias of a model cancels and is never read.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._score_B = first_round_score(problem)
        empty_B = torch.full((len(problem.candidates),), -torch.inf, dtype=torch.float64, device=problem.device)
        self._lse = [empty_B] * (2 * len(problem.models))

    def score(self) -> Float64[Tensor, " B"]:
        """Return the scores given all that were added."""
        return self._score_B

    def add(self, new: Drawn) -> None:
        """Add the new chosen to every candidate's denominators, both directions, each model."""
        parts = log_sum_exp_with(self._problem, new)
        self._lse = [torch.logaddexp(lse_B, part_B) for lse_B, part_B in zip(self._lse, parts, strict=True)]
        self._score_B = conditional_score(self._problem.models, self._lse)


def first_round_score(problem: Problem) -> Float64[Tensor, " B"]:
    """Return the score of each candidate while nothing is chosen, when its softmax loss alone is 0.

    `probe`: the conditional score as if the probe were chosen; where i is in the probe, its own term counts once.
    `diagonal`: w_l * (-L_ii) of the learner + w_r * (-L_ii) of the reference, to compare; it has no denominators, so a
    model's scale alone may decide it.
    Cost: probe: per model 2 products of 2*B*m*D FLOPs; memory O(B + m*D). diagonal: O(B).
    Source: selection.md, "Joint selection, softmax". We differ from the paper, which states no first round for softmax.
    """
    if problem.spec.first_round == "diagonal":
        return torch.stack([-model.weight * _own_logit(model) for model in problem.models]).sum(0)
    probe = draw_probe(
        problem.candidates, problem.spec, copies=problem.copies, noise=problem.noise, peers=problem.peers
    )
    own_m = torch.full((probe.count,), -1, device=problem.device)
    own_m[probe.place] = probe.index
    return conditional_score(problem.models, log_sum_exp_with(problem, probe, own=own_m))


def probe_index(
    candidates: Candidates, spec: SelectionSpec, *, noise: NoiseSource | None = None
) -> Int[np.ndarray, " m"]:
    """Return the positions of the probe of a selection, for `losses.probe_loss`.

    Args: as for `select`, and the same ones.
    Returns: m distinct positions: those of the m largest round-0 noises among the candidates that may be chosen,
        m = spec.probe_size or b, and no more than may be chosen.
    Source: selection.md, "Joint selection, softmax". We differ: a candidate that is excluded, or behind another one of
        the same uid and content, is not in the probe, so that it changes nothing, as if it had not been a candidate.
        The same content under another uid, and near-copies, may be in it.
    """
    noise = noise or GumbelNoise(spec.seed, spec.seq, uids=candidates.uid)
    peers = OneProcess()
    copies = find_copies(candidates, spec, peers=peers)
    return draw_probe(candidates, spec, copies=copies, noise=noise, peers=peers).index.numpy(force=True)


def draw_probe(
    candidates: Candidates, spec: SelectionSpec, *, copies: Copies | None, noise: NoiseSource, peers: Peers
) -> Drawn:
    """Return the probe of a selection, drawn among all peers' candidates; see `probe_index`."""
    noise_B = noise(PROBE_ROUND)
    free_B = torch.from_numpy(log_prior_without_copies(candidates, spec, copies) > -np.inf).to(noise_B.device)
    rank_B = identity_rank_on(noise_B.device, candidates.uid, candidates.dataset_index)
    m = min(spec.probe_size or spec.b, peers.total(int(free_B.sum())))
    return peers.draw_largest(noise_B, m, rank=rank_B, free=free_B)


def log_sum_exp_with(
    problem: Problem, drawn: Drawn, *, own: Int[Tensor, " n"] | None = None
) -> list[Float64[Tensor, " B"]]:
    """Return for each model, as image and as text, the LSE of every candidate's logits (without bias) with those drawn.

    `own` leaves out the pair of a candidate with itself, see `PairReduction`; LSE over nothing is -inf.
    """
    requests: list[PairReduction] = []
    for model in problem.models:
        mine, chosen = model.embeddings, problem.rows(model.embeddings, drawn)
        for left_BD, right_nD in ((mine.image, chosen.text), (mine.text, chosen.image)):
            requests.append(PairReduction(left_BD, right_nD, mine.logit_scale, 0.0, how="log_sum_exp", own=own))
    return problem.engine.reduce(requests)


def conditional_score(
    models: Sequence[ScoredModel], log_sum_exp: Sequence[Float64[Tensor, " B"]]
) -> Float64[Tensor, " B"]:
    """Return the sum over models of w * 1/2 sum over directions of [logaddexp(lse_i, L_ii) - L_ii].

    Args:
        models: with signed weights.
        log_sum_exp: of each model two vectors, over others than i itself and without bias.
    """
    parts = [
        -model.weight / 2 * logsigmoid(_own_logit(model) - lse_B)
        for index, model in enumerate(models)
        for lse_B in log_sum_exp[2 * index : 2 * index + 2]
    ]
    return torch.stack(parts).sum(0)


def _own_logit(model: ScoredModel) -> Float64[Tensor, " B"]:
    return model.pair_cosine * model.embeddings.logit_scale
