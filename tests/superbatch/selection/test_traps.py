"""The mistakes of public ports (selection.md, "Traps"), each shown to bite and shown to be absent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from superbatch.selection import SelectionSpec, select, set_loss
from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK, CHOSEN_BLOCK
from tests.superbatch.selection import made, plain


def young_candidates(B: int, width: int) -> made.Candidates:
    rng = np.random.default_rng(0)
    towers = {"scale": 10.0, "bias": -10.0, "noise": 0.4}
    return replace(
        made.candidates(B), learner=made.model(rng, B, width, **towers), reference=made.model(rng, B, width, **towers)
    )


def test_trap_1_young_models_joint_equals_independent() -> None:
    candidates = young_candidates(400, 256)
    spec = SelectionSpec("joint", "learnability", 80, 16, sampling="top_k")
    joint, alone = select(candidates, spec), select(candidates, replace(spec, method="independent"))
    assert np.abs(joint.score - alone.score).max() < 0.1 * alone.score.std()
    assert len(np.intersect1d(joint.chosen_index, alone.chosen_index)) >= 0.95 * 80


def test_trap_1_trained_models_neither_underflow_nor_overflow() -> None:
    candidates = made.clusters(0, num_clusters=16)
    got = select(candidates, SelectionSpec("joint", "learnability", 64, 16))
    weight_B = np.exp(got.score.astype(np.float32) - got.score.max().astype(np.float32))
    assert (weight_B == 0).mean() > 0.3  # a normalised draw in fp32 could never reach these
    assert np.isfinite(got.score).all()
    assert np.isfinite(got.perturbed).all()
    assert len(set(got.chosen_index.tolist())) == 64


def test_trap_2_the_reference_keeps_its_own_scale_and_the_self_term_counts() -> None:
    candidates = made.candidates(12, reference_scale=37.0)
    spec = SelectionSpec("joint", "easy_reference", 6, 3)
    got = select(candidates, spec)
    S_BB = plain.criterion_matrix(candidates, "easy_reference")
    before_last = [i for i in got.chosen_index if got.round[i] < 3]
    for i in np.flatnonzero(got.round == -1):
        expected = S_BB[i, i] + S_BB[i, before_last].sum() + S_BB[before_last, i].sum()
        assert got.score[i] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("b", "num_chunks"), [(10, 4), (11, 11), (13, 8), (31, 16)])
def test_trap_2_no_fewer_than_b_are_chosen(b: int, num_chunks: int) -> None:
    got = select(made.candidates(40), SelectionSpec("joint", "learnability", b, num_chunks))
    assert len(got.chosen_index) == b
    assert set(got.round.tolist()) == {-1, *range(1, num_chunks + 1)}


class LargestArray(TorchDispatchMode):
    """Remembers the largest result of any torch operation."""

    def __init__(self) -> None:
        super().__init__()
        self.num_entries = 0
        self.num_multiplied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            self.num_entries = max(self.num_entries, result.numel())
        if "mm" in str(func):
            *_, left, right = args  # addmm has a bias before them
            self.num_multiplied += left.shape[0] * right.shape[1]
        return result


def test_trap_2_no_matrix_of_candidates_and_each_pair_once() -> None:
    B, b, num_chunks = 40_000, 400, 2
    candidates = made.candidates(B, width=3, dtype=torch.float32)
    with LargestArray() as seen:
        select(candidates, SelectionSpec("joint", "learnability", b, num_chunks))
    assert seen.num_entries <= 2 * CANDIDATE_BLOCK * CHOSEN_BLOCK  # not B x n = 8,000,000, let alone B x B
    assert seen.num_multiplied == 4 * B * (b // num_chunks) * (num_chunks - 1)


def test_trap_3_joint_is_no_function_of_two_loss_vectors() -> None:
    candidates = made.clusters(1, num_clusters=8)
    got = select(candidates, SelectionSpec("joint", "learnability", 32, 4))
    diagonal_B = plain_diagonal(candidates)
    last = got.round == -1
    slope, offset = np.polyfit(diagonal_B[last], got.score[last], 1)
    unexplained = np.var(got.score[last] - slope * diagonal_B[last] - offset) / np.var(got.score[last])
    assert unexplained > 0.5


def plain_diagonal(candidates: made.Candidates) -> np.ndarray:
    return np.asarray(select(candidates, SelectionSpec("independent", "learnability", 1, 1)).score)


def test_more_chunks_choose_more_learnable_batches() -> None:
    """N = 1 < 2 < 4 < 8 < 16 on made clusters at t = 100; each step at p < 0.05, paired t over 8 seeds."""
    learnability_SN = np.array([[cluster_learnability(seed, N) for N in (1, 2, 4, 8, 16)] for seed in range(8)])
    gain_SN = np.diff(learnability_SN)
    t_N = gain_SN.mean(0) / (gain_SN.std(0, ddof=1) / np.sqrt(8))
    assert (t_N > 1.895).all(), (learnability_SN.mean(0), t_N)


def cluster_learnability(seed: int, num_chunks: int) -> float:
    candidates = made.clusters(seed)
    chosen = select(candidates, SelectionSpec("joint", "learnability", 256, num_chunks, seed=seed)).chosen_index
    return set_loss(candidates.learner.take(chosen)) - set_loss(candidates.reference.take(chosen))
