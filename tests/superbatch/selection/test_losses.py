from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection import Candidates, DualEmbeddings, diagonal_loss, own_conditional_loss, set_loss
from superbatch.selection.criteria import criterion_weights
from superbatch.selection.errors import InvalidSelection
from tests.superbatch.selection import made, plain

LOG_2 = np.log(2)
NEGATIVE = 4.539889921686465e-05  # softplus(-10)


def test_two_orthogonal_pairs_by_hand() -> None:
    # t = 10, bias = -10: logits are 0 on the diagonal and -10 off it.
    two = DualEmbeddings(torch.eye(2), torch.eye(2), 10.0, -10.0)
    np.testing.assert_allclose(diagonal_loss(two), [LOG_2, LOG_2], rtol=1e-12)
    np.testing.assert_allclose(own_conditional_loss(two), [LOG_2 + 2 * NEGATIVE] * 2, rtol=1e-7)
    assert set_loss(two) == pytest.approx(2 * LOG_2 + 2 * NEGATIVE, rel=1e-7)


@given(b=st.integers(1, 12), scale=st.floats(1, 200), seed=st.integers(0, 50))
def test_losses_equal_the_full_matrix(b: int, scale: float, seed: int) -> None:
    members = made.model(np.random.default_rng(seed), b, 4, scale=scale)
    P_bb = plain.pair_losses(members)
    np.testing.assert_allclose(diagonal_loss(members), P_bb.diagonal(), rtol=1e-11, atol=1e-13)
    assert set_loss(members) == pytest.approx(P_bb.sum(), rel=1e-11)
    for i in range(b):
        others = [k for k in range(b) if k != i]
        without_i = P_bb[np.ix_(others, others)].sum()
        assert own_conditional_loss(members)[i] == pytest.approx(P_bb.sum() - without_i, rel=1e-9, abs=1e-12)


def test_own_loss_is_right_across_the_edges_of_tiles() -> None:
    members = made.model(np.random.default_rng(0), 1100, 3, scale=20.0)
    image_BD, text_BD = members.image, members.text
    logits_BB = 20.0 * image_BD @ text_BD.T - 10.0
    P_BB = torch.nn.functional.softplus(logits_BB, threshold=100.0)
    P_BB.fill_diagonal_(0.0)
    expected_B = P_BB.sum(0) + P_BB.sum(1) + diagonal_loss(members)
    np.testing.assert_allclose(own_conditional_loss(members), expected_B, rtol=1e-11)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_the_number_of_threads_changes_no_bit_of_a_loss(num_threads: int) -> None:
    rng = np.random.default_rng(0)
    many = made.model(rng, 70_001, 5, dtype=torch.float32)  # more than torch gives to one thread
    some = made.model(rng, 1100, 16, dtype=torch.float32)
    alone = [diagonal_loss(many).numpy().tobytes(), own_conditional_loss(some).numpy().tobytes()]
    torch.set_num_threads(num_threads)
    assert [diagonal_loss(many).numpy().tobytes(), own_conditional_loss(some).numpy().tobytes()] == alone


def test_losses_of_extreme_logits_are_finite_and_right() -> None:
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    wrong = DualEmbeddings(apart, -apart, 200.0, 0.0)  # every pair mismatched: logit -200 on the diagonal, 200 off it
    np.testing.assert_allclose(diagonal_loss(wrong), [200.0, 200.0], rtol=1e-6)
    np.testing.assert_allclose(own_conditional_loss(wrong), [600.0, 600.0], rtol=1e-6)
    right = DualEmbeddings(apart, apart, 200.0, 0.0)
    assert 0 <= set_loss(right) < 1e-15


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("learnability", (2.0, -0.5)), ("easy_reference", (0.0, -0.5)), ("hard_learner", (2.0, 0.0))],
)
def test_criteria_sign_the_weights(criterion: str, expected: tuple[float, float]) -> None:
    assert criterion_weights(criterion, weights=(2.0, 0.5)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("criterion", "weights"),
    [("learnabilty", (1, 1)), ("learnability", (-1, 1)), ("learnability", (float("nan"), 1)), ("hard_learner", (0, 1))],
)
def test_criteria_without_meaning_are_refused(criterion: str, weights: tuple[float, float]) -> None:
    with pytest.raises(InvalidSelection, match=r"criterion must|weights must"):
        criterion_weights(criterion, weights=weights)  # type: ignore[arg-type]


def test_candidates_compare_by_identity_not_by_array() -> None:
    those = Candidates(uid=np.zeros((1, 16), np.uint8), dataset_index=np.zeros(1, np.int64))
    assert those != replace(those)
    assert len(those) == 1
