"""Draws follow their exact distribution: chi-square with fixed seeds, failing below p = 0.001."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from superbatch.selection import SelectionSpec, select
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.rounds import FixedScore, draw_in_rounds
from superbatch.selection.noise import gumbel
from tests.superbatch.selection import made, plain

SCORES_B = np.array([0.0, 1.0, -0.5, 2.0, 0.3, 0.8])
NUM_DRAWS = 3000


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


def counts_of_draws(
    candidates: made.Candidates, *, n: int, max_cosine: float | None = None
) -> Counter[tuple[int, ...]]:
    """Draws of n by SCORES_B, through the prior and the exclusions of the candidates."""
    counts: Counter[tuple[int, ...]] = Counter()
    for seq in range(2000):
        spec = SelectionSpec("independent", "learnability", n, 1, max_cosine=max_cosine, seed=6, seq=seq)
        got = draw_in_rounds(made.problem(candidates, spec), running=FixedScore(torch.from_numpy(SCORES_B)), sizes=[n])
        counts[tuple(got.chosen_index.tolist())] += 1
    return counts


def test_priors_multiply_the_odds_and_minus_infinity_is_never() -> None:
    prior_B = np.array([np.log(2.0), 0.0, -0.7, -np.inf, 1.1, 0.0])
    exact = plain.sequence_probabilities((SCORES_B + prior_B).tolist(), 2)
    assert len(exact) == 5 * 4
    assert plain.chi_square_p(counts_of_draws(made.candidates(6, prior=prior_B), n=2), exact) > 1e-3


def test_walking_past_what_is_like_a_member_draws_in_proportion_among_the_rest() -> None:
    """Rows 0 and 3 are one content, rows 1 and 4 one image; all six have noise of their own."""
    candidates = made.candidates(6)
    assert candidates.reference is not None
    content = candidates.uid.copy()
    content[3] = content[0]
    image_BD = candidates.reference.image.clone()
    image_BD[4] = image_BD[1]
    candidates = replace(candidates, content=content, reference=replace(candidates.reference, image=image_BD))
    like_BB = np.eye(6, dtype=bool)
    like_BB[[0, 3, 1, 4], [3, 0, 4, 1]] = True
    exact = plain.sequence_probabilities(SCORES_B.tolist(), 3, like_BB=like_BB)
    counts = counts_of_draws(candidates, n=3, max_cosine=0.99)
    assert plain.chi_square_p(counts, exact) > 1e-3
    as_if_drawn_first_and_thinned_after = plain.sequence_probabilities(SCORES_B.tolist(), 3)
    kept = {drawn: p for drawn, p in as_if_drawn_first_and_thinned_after.items() if drawn in exact}
    thinned = {drawn: p / sum(kept.values()) for drawn, p in kept.items()}
    assert plain.chi_square_p(counts, thinned) < 1e-9


def test_two_rows_of_one_uid_have_the_odds_of_one() -> None:
    candidates = made.candidates(6)
    uid = candidates.uid.copy()
    uid[3] = uid[1]
    behind = max(1, 3, key=lambda i: candidates.dataset_index[i])
    exact = plain.sequence_probabilities(np.where(np.arange(6) == behind, -np.inf, SCORES_B).tolist(), 2)
    assert plain.chi_square_p(counts_of_draws(replace(candidates, uid=uid), n=2), exact) > 1e-3
