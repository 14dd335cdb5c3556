"""Draws follow their exact distribution: chi-square with fixed seeds, failing below p = 0.001."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from superbatch.selection import SelectionSpec, select
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.rounds import FixedScore, draw_in_rounds
from superbatch.selection.noise import gumbel
from tests.superbatch.selection import made, plain

SCORES_B = np.array([0.0, 1.0, -0.5, 2.0, 0.3, 0.8])
NUM_DRAWS = 6000


class ChangedByTheFirst:
    """Scores 0..5 of round 1; in round 2 those near the first chosen rise by 2 each."""

    def __init__(self) -> None:
        self.score_B = SCORES_B.copy()

    def score(self) -> torch.Tensor:
        return torch.from_numpy(self.score_B)

    def add(self, new: Drawn) -> None:
        self.after(int(new.index[0]))

    def after(self, first: int) -> None:
        self.score_B = SCORES_B + 2.0 * (np.abs(np.arange(6) - first) == 1)


def exact_two_rounds() -> dict[tuple[int, ...], float]:
    found = {}
    for (first,), p in plain.sequence_probabilities(SCORES_B.tolist(), 1).items():
        changed = ChangedByTheFirst()
        changed.after(first)
        weight_B = np.exp(changed.score_B)
        weight_B[first] = 0.0
        found |= {(first, i): p * weight_B[i] / weight_B.sum() for i in range(6) if i != first}
    return found


def test_gumbel_top_n_draws_without_replacement() -> None:
    candidates = made.candidates(6)
    exact = plain.sequence_probabilities((0.7 * SCORES_B).tolist(), 3)
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(NUM_DRAWS):
        spec = SelectionSpec("independent", "learnability", 3, 1, gain=0.7, seed=1, seq=seq)
        got = draw_in_rounds(made.problem(candidates, spec), running=FixedScore(torch.from_numpy(SCORES_B)), sizes=[3])
        counts[tuple(got.chosen_index.tolist())] += 1
    assert plain.chi_square_p(counts, exact) > 1e-3


def test_two_rounds_with_changed_scores_match_the_exact_distribution() -> None:
    candidates = made.candidates(6)
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(NUM_DRAWS):
        spec = SelectionSpec("joint", "learnability", 2, 2, seed=1, seq=seq)
        got = draw_in_rounds(made.problem(candidates, spec), running=ChangedByTheFirst(), sizes=[1, 1])
        counts[tuple(got.chosen_index.tolist())] += 1
    assert plain.chi_square_p(counts, exact_two_rounds()) > 1e-3


def test_the_two_round_test_would_catch_reused_noise() -> None:
    candidates = made.candidates(6)
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(NUM_DRAWS):
        noise_B = gumbel(1, seq, round=1, uids=candidates.uid)
        changed = ChangedByTheFirst()
        first = int((changed.score_B + noise_B).argmax())
        changed.after(first)
        kept_B = changed.score_B + noise_B
        kept_B[first] = -np.inf
        counts[(first, int(kept_B.argmax()))] += 1
    assert plain.chi_square_p(counts, exact_two_rounds()) < 1e-9


def test_joint_selection_of_real_embeddings_matches_the_exact_distribution() -> None:
    candidates = made.candidates(6, width=3, learner_scale=6.0, reference_scale=8.0, seed=4)
    S_BB = plain.criterion_matrix(candidates, "learnability")
    exact = {}
    for (first,), p in plain.sequence_probabilities(S_BB.diagonal().tolist(), 1).items():
        weight_B = np.exp(S_BB.diagonal() + S_BB[first] + S_BB[:, first])
        weight_B[first] = 0.0
        exact |= {(first, i): p * weight_B[i] / weight_B.sum() for i in range(6) if i != first}
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(2500):
        got = select(candidates, SelectionSpec("joint", "learnability", 2, 2, seed=9, seq=seq))
        counts[tuple(got.chosen_index.tolist())] += 1
    assert plain.chi_square_p(counts, exact) > 1e-3


def test_uniform_chooses_each_pair_equally_often() -> None:
    candidates = made.candidates(6)
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(NUM_DRAWS):
        got = select(candidates, SelectionSpec("uniform", "learnability", 2, 1, sampling="top_k", seed=1, seq=seq))
        counts[tuple(got.chosen_index.tolist())] += 1
    assert plain.chi_square_p(counts, plain.sequence_probabilities([0.0] * 6, 2)) > 1e-3
