"""Hard-negative mining: neighbours of drawn anchors, filled greedily, none of them near-copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec, select
from tests.superbatch.selection import made, plain

DEGREES = np.array([0.0, 0.5, 10.0, 21.0, 90.0, 101.0, 113.0])
APART_BY_5 = float(np.cos(np.deg2rad(5.0)))


def at_degrees(degrees: np.ndarray) -> Candidates:
    """Both towers of a row point in its direction."""
    angle_B = np.deg2rad(degrees)
    direction_B2 = torch.from_numpy(np.stack([np.cos(angle_B), np.sin(angle_B)], 1))
    reference = DualEmbeddings(direction_B2, direction_B2, 100.0, -10.0)
    return replace(made.candidates(len(degrees)), learner=None, reference=reference)


def test_the_nearest_neighbour_comes_in_again_and_again_but_no_near_copy() -> None:
    """Worked by hand: from 10 degrees, 0.5 is nearer than 0 and than 21; 0 is then a copy of 0.5."""
    expected = {
        0.0: [10.0, 21.0],
        0.5: [10.0, 21.0],
        10.0: [0.5, 21.0],
        21.0: [10.0, 0.5],
        90.0: [101.0, 113.0],
        101.0: [90.0, 113.0],
        113.0: [101.0, 90.0],
    }
    candidates, anchors = at_degrees(DEGREES), set()
    for seq in range(60):
        spec = SelectionSpec(
            "hard_negatives", "learnability", 3, 3, sampling="top_k", max_cosine=APART_BY_5, seed=3, seq=seq
        )
        anchor, *filled = DEGREES[select(candidates, spec).chosen_index].tolist()
        assert filled == expected[anchor]
        anchors.add(anchor)
    assert anchors == set(expected)  # also where the best is taken, the anchor is drawn


def test_a_neighbour_either_way_round_counts() -> None:
    """Row 1's text is like row 0's image, and row 2's image like row 3's text; nothing else is like anything."""
    image_BD, text_BD = torch.eye(8, dtype=torch.float64)[:4], torch.eye(8, dtype=torch.float64)[4:]
    text_BD = text_BD.clone()
    text_BD[1], text_BD[3] = image_BD[0], image_BD[2]
    candidates = replace(made.candidates(4), learner=None, reference=DualEmbeddings(image_BD, text_BD, 50.0, 0.0))
    spec = SelectionSpec("hard_negatives", "learnability", 2, 2, sampling="top_k", max_cosine=0.99)
    pairs = {tuple(select(candidates, replace(spec, seq=seq)).chosen_index.tolist()) for seq in range(40)}
    assert pairs == {(0, 1), (1, 0), (2, 3), (3, 2)}


@pytest.mark.parametrize("sampling", ["gumbel", "top_k"])
@pytest.mark.parametrize(("b", "num_chunks"), [(9, 9), (10, 4), (8, 1), (7, 2)])
def test_rounds_equal_the_slow_filling(sampling: str, b: int, num_chunks: int) -> None:
    for seed in range(4):
        candidates = made.candidates(30, seed=seed)
        spec = SelectionSpec(
            "hard_negatives", "learnability", b, num_chunks, 0.2, sampling=sampling, seed=seed, max_cosine=0.8
        )  # type: ignore[arg-type]
        got = select(candidates, spec)
        chosen, rounds, score, perturbed = plain.select(candidates, spec)
        assert (got.chosen_index.tolist(), got.round.tolist()) == (chosen, rounds)
        np.testing.assert_allclose(got.score, score, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(got.perturbed, perturbed, rtol=1e-9, atol=1e-9)


def test_one_chunk_is_uniform_and_so_are_the_anchors() -> None:
    candidates = made.candidates(80)
    spec = SelectionSpec("hard_negatives", "learnability", 20, 1, max_cosine=0.999, sampling="top_k")
    uniform = replace(spec, method="uniform")
    np.testing.assert_array_equal(select(candidates, spec).chosen_index, select(candidates, uniform).chosen_index)
    anchors = select(candidates, replace(spec, num_chunks=4)).chosen_index[:5]
    np.testing.assert_array_equal(anchors, select(candidates, replace(uniform, b=5)).chosen_index)


def test_neither_the_learner_nor_the_criterion_nor_the_loss_is_read() -> None:
    candidates = made.candidates(40)
    spec = SelectionSpec("hard_negatives", "learnability", 12, 4, max_cosine=0.95)
    expected = select(candidates, spec).chosen_index
    assert candidates.reference is not None
    moved = replace(candidates.reference, logit_bias=-3.0)
    other = replace(candidates, learner=None, reference=moved)
    for changed in (spec, replace(spec, criterion="hard_learner"), replace(spec, loss="softmax", weights=(3.0, 0.5))):
        np.testing.assert_array_equal(select(other, changed).chosen_index, expected)


def test_batches_are_harder_for_the_reference_than_uniform_ones() -> None:
    """Of 8 batches of made clusters each: a member's hardest negative logit, on average over the batch."""
    for seed in range(8):
        candidates = made.clusters(seed, num_clusters=16, per_cluster=20)
        hard, uniform = (
            hardest_negative(candidates, SelectionSpec(method, "learnability", 64, 16, max_cosine=0.95, seed=seed))  # type: ignore[arg-type]
            for method in ("hard_negatives", "uniform")
        )
        assert hard > uniform + 2.0  # logits; measured 4 to 6


def hardest_negative(candidates: Candidates, spec: SelectionSpec) -> float:
    chosen = select(candidates, spec).chosen_index
    assert candidates.reference is not None
    logits_bb = plain.softmax_logits(candidates.reference.take(chosen))
    np.fill_diagonal(logits_bb, -np.inf)
    return float(np.maximum(logits_bb.max(0), logits_bb.max(1)).mean())
