"""The mistakes of public ports under the softmax loss (selection.md, "Traps"), each shown to bite and to be absent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from superbatch.selection import SelectionSpec, diagonal_loss, own_conditional_loss, probe_index, select, set_loss
from superbatch.selection.methods.joint import select_joint
from superbatch.selection.noise import gumbel
from superbatch.selection.pairs.cpu import CpuEngine
from superbatch.selection.pairs.engine import PairReduction
from tests.superbatch.selection import made, plain


def softmax(**fields: Any) -> SelectionSpec:
    plainly = {"method": "joint", "criterion": "learnability", "b": 1, "num_chunks": 1, "loss": "softmax"}
    return SelectionSpec(**(plainly | fields))


def test_with_nothing_chosen_every_softmax_loss_is_0_so_a_probe_tells_rows_apart() -> None:
    candidates = made.candidates(50)
    assert candidates.learner is not None
    for i in range(50):
        assert own_conditional_loss(candidates.learner.take(np.array([i])), loss="softmax").tolist() == [0.0]
    assert diagonal_loss(candidates.learner, loss="softmax").tolist() == [0.0] * 50
    score_B = select(candidates, softmax(method="independent", b=10)).score
    assert len(set(score_B.tolist())) == 50


def test_the_probe_counts_in_the_first_round_only() -> None:
    candidates = made.candidates(40, learner_scale=10.0, reference_scale=12.0)
    spec = softmax(criterion="hard_learner", b=12, num_chunks=2)
    got = select(candidates, spec)
    first = [i for i in got.chosen_index.tolist() if got.round[i] == 1]
    ((_, logits_BB),) = plain.weighted_logits(candidates, spec)
    probe_too = [*first, *probe_index(candidates, spec).tolist()]
    for i in np.flatnonzero(got.round != 1):
        assert got.score[i] == pytest.approx(plain.softmax_loss(logits_BB, i, first), rel=1e-9)
        assert got.score[i] < 0.97 * plain.softmax_loss(logits_BB, i, probe_too)


def test_the_self_term_belongs_inside() -> None:
    """Without L_ii in its own denominator a well matched pair would score by its logit, not by its loss."""
    candidates = made.candidates(60)
    spec = softmax(criterion="hard_learner", b=20, num_chunks=4)
    got = select(candidates, spec)
    before_last = [i for i in got.chosen_index.tolist() if got.round[i] < 4]
    ((_, logits_BB),) = plain.weighted_logits(candidates, spec)
    without = np.array(
        [
            np.logaddexp.reduce(logits_BB[i, before_last]) / 2
            + np.logaddexp.reduce(logits_BB[before_last, i]) / 2
            - logits_BB[i, i]
            for i in range(60)
        ]
    )
    last = got.round == -1
    assert (got.score >= 0).all()
    assert without[last].min() < -5
    expected = [plain.softmax_loss(logits_BB, i, before_last) for i in np.flatnonzero(last)]
    np.testing.assert_allclose(got.score[last], expected, rtol=1e-9)


def test_each_model_keeps_its_own_scale() -> None:
    candidates = made.candidates(40, learner_scale=7.0, reference_scale=23.0)
    spec = softmax(method="independent", b=8)
    probe = probe_index(candidates, spec).tolist()
    models = plain.weighted_logits(candidates, spec)
    expected = [sum(w * plain.softmax_loss(logits_BB, i, probe) for w, logits_BB in models) for i in range(40)]
    np.testing.assert_allclose(select(candidates, spec).score, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [100.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("softmax_score", ["conditional", "marginal"])
def test_trained_scales_neither_underflow_nor_overflow(scale: float, dtype: torch.dtype, softmax_score: str) -> None:
    """e^L itself is beyond fp32 from L = 89 on, and e^(L - largest) of most negatives is 0."""
    candidates = made.candidates(600, width=32, learner_scale=scale, reference_scale=scale, dtype=dtype)
    with np.errstate(over="ignore"):
        assert np.exp(np.float32(scale * 0.9)) == np.inf
    got = select(candidates, softmax(b=64, num_chunks=8, softmax_score=softmax_score))
    assert np.isfinite(got.score).all()
    assert np.isfinite(got.perturbed).all()
    assert len(set(got.chosen_index.tolist())) == 64


def test_opposite_pairs_at_t_200_have_the_loss_of_their_logits() -> None:
    """Pair 0 and 1 are mismatched as far as can be: l = (200 + 200) + log(1 + e^-400) for each of them."""
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    swapped = replace(made.model(np.random.default_rng(0), 2, 2), image=apart, text=-apart, logit_scale=200.0)
    candidates = replace(made.candidates(2), learner=swapped, reference=None)
    got = select(candidates, softmax(criterion="hard_learner", b=2, num_chunks=2))
    np.testing.assert_allclose(got.score, [400.0, 400.0], rtol=1e-6)


class CountingEngine(CpuEngine):
    """Remembers what was asked of it."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows, compute_dtype=torch.float64)
        self.num_pairs: list[int] = []

    def reduce(self, requests: Sequence[PairReduction]) -> list[torch.Tensor]:
        self.num_pairs.append(sum(len(request.left) * len(request.right) for request in requests))
        return super().reduce(requests)


def test_each_pair_with_the_chosen_is_compared_once_and_each_with_the_probe_once() -> None:
    candidates = made.candidates(300)
    engine = CountingEngine(300)
    spec = softmax(b=60, num_chunks=4, probe_size=20)
    select_joint(replace(made.problem(candidates, spec), engine=engine))
    assert engine.num_pairs == [4 * 300 * 20, 4 * 300 * 15, 4 * 300 * 15, 4 * 300 * 15]


def test_joint_is_no_function_of_the_two_losses_of_single_rows() -> None:
    candidates = made.clusters(1, num_clusters=8, own_to_learner=0.1)
    spec = softmax(b=32, num_chunks=4, gain=10.0)
    alone_B = select(candidates, replace(spec, method="independent")).score
    got = select(candidates, spec)
    last = got.round == -1
    slope, offset = np.polyfit(alone_B[last], got.score[last], 1)
    unexplained = np.var(got.score[last] - slope * alone_B[last] - offset) / np.var(got.score[last])
    assert unexplained > 0.5


def test_more_chunks_choose_more_learnable_batches() -> None:
    """N = 1 < 2 < 4 < 8 < 16 on made clusters at t = 100, gain 3; each step at p < 0.05, paired t over 8 seeds."""
    learnability_SN = np.array([[cluster_learnability(seed, N) for N in (1, 2, 4, 8, 16)] for seed in range(100, 108)])
    gain_SN = np.diff(learnability_SN)
    t_N = gain_SN.mean(0) / (gain_SN.std(0, ddof=1) / np.sqrt(8))
    assert (t_N > 1.895).all(), (learnability_SN.mean(0), t_N)


def cluster_learnability(seed: int, num_chunks: int) -> float:
    candidates = made.clusters(seed, own_to_learner=0.05)
    chosen = select(candidates, softmax(b=256, num_chunks=num_chunks, gain=3.0, seed=seed)).chosen_index
    assert candidates.learner is not None
    assert candidates.reference is not None
    losses = [set_loss(model.take(chosen), loss="softmax") for model in (candidates.learner, candidates.reference)]
    return losses[0] - losses[1]


NUM_DRAWS = 1200


def exact_two_rounds(candidates: made.Candidates, spec: SelectionSpec) -> dict[tuple[int, ...], float]:
    """The probability of each ordered pair, the probe of 6 being all candidates whatever the noise."""
    score_given = plain.softmax_scorer(candidates, spec)
    exact = {}
    first_scores = [spec.gain * score_given(i, []) for i in range(6)]
    for (first,), p in plain.sequence_probabilities(first_scores, 1).items():
        weight_B = np.exp([spec.gain * score_given(i, [first]) for i in range(6)])
        weight_B[first] = 0.0
        exact |= {(first, i): p * weight_B[i] / weight_B.sum() for i in range(6) if i != first}
    return exact


def two_rounds_on_six() -> tuple[made.Candidates, SelectionSpec]:
    candidates = made.candidates(6, width=3, learner_scale=3.0, reference_scale=6.0, seed=5)
    return candidates, softmax(b=2, num_chunks=2, probe_size=6, seed=9)


@pytest.mark.parametrize("softmax_score", ["conditional", pytest.param("marginal", marks=pytest.mark.long)])
def test_two_rounds_with_changed_scores_match_the_exact_distribution(softmax_score: Any) -> None:
    """Chi-square over the ordered pairs of 6, rare ones pooled; fails below p = 0.001."""
    candidates, spec = two_rounds_on_six()
    spec = replace(spec, softmax_score=softmax_score)
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(NUM_DRAWS):
        counts[tuple(select(candidates, replace(spec, seq=seq)).chosen_index.tolist())] += 1
    assert plain.chi_square_p(counts, exact_two_rounds(candidates, spec)) > 1e-3


def test_the_two_round_test_would_catch_reused_noise() -> None:
    candidates, spec = two_rounds_on_six()
    score_given = plain.softmax_scorer(candidates, spec)
    score_of = {first: np.array([score_given(i, [first]) for i in range(6)]) for first in range(6)}
    first_B = np.array([score_given(i, []) for i in range(6)])
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(NUM_DRAWS):
        noise_B = gumbel(spec.seed, seq, round=1, uids=candidates.uid)
        first = int((spec.gain * first_B + noise_B).argmax())
        kept_B = spec.gain * score_of[first] + noise_B
        kept_B[first] = -np.inf
        counts[(first, int(kept_B.argmax()))] += 1
    assert plain.chi_square_p(counts, exact_two_rounds(candidates, spec)) < 1e-9
