from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.selection import (
    Candidates,
    DualEmbeddings,
    diagonal_loss,
    own_conditional_loss,
    probe_loss,
    set_loss,
)
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


# Three pairs at t = 5 log 2, so that e^L is 32 at cosine 1, 16 at 0.8, 8 at 0.6 and 1 at 0:
#            text 0  text 1  text 2
#   image 0      32       8       1
#   image 1       1      16       8
#   image 2       1       1      16
THREE = DualEmbeddings(
    image=torch.eye(3, dtype=torch.float64),
    text=torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64),
    logit_scale=5 * float(LOG_2),
    logit_bias=-3.0,
)
LOSS_OF_THREE = [
    (np.log(41 / 32) + np.log(34 / 32)) / 2,  # row 0 sums to 41, column 0 to 34
    np.log(25 / 16),  # row 1 and column 1
    (np.log(18 / 16) + np.log(25 / 16)) / 2,
]


def test_softmax_of_two_orthogonal_pairs_by_hand() -> None:
    two = DualEmbeddings(torch.eye(2), torch.eye(2), float(np.log(3)), -10.0)  # each row: e^L of 3 and 1
    np.testing.assert_allclose(own_conditional_loss(two, loss="softmax"), [0.28768207] * 2, rtol=1e-7)  # log(4/3)
    assert set_loss(two, loss="softmax") == pytest.approx(0.57536414, rel=1e-7)
    assert diagonal_loss(two, loss="softmax").tolist() == [0.0, 0.0]


def test_softmax_of_three_pairs_by_hand() -> None:
    np.testing.assert_allclose(own_conditional_loss(THREE, loss="softmax"), LOSS_OF_THREE, rtol=1e-12)
    assert set_loss(THREE, loss="softmax") == pytest.approx(sum(LOSS_OF_THREE), rel=1e-12)


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ([0, 1, 2], LOSS_OF_THREE),
        # Pair 1 alone: for itself nothing is left; for pair 0, row 0 is 32 + 8 and column 0 is 32 + 1.
        ([1], [(np.log(40 / 32) + np.log(33 / 32)) / 2, 0.0, (np.log(17 / 16) + np.log(24 / 16)) / 2]),
        ([2, 0], [np.log(33 / 32), np.log(25 / 16), (np.log(17 / 16) + np.log(17 / 16)) / 2]),
    ],
)
def test_loss_against_a_probe_by_hand(probe: list[int], expected: list[float]) -> None:
    np.testing.assert_allclose(probe_loss(THREE, np.array(probe)), expected, rtol=1e-12, atol=1e-15)


@settings(deadline=None)
@given(
    b=st.integers(1, 12), scale=st.floats(1, 200), seed=st.integers(0, 50), dtype=st.sampled_from(["f8", "f4", "f2"])
)
def test_softmax_losses_equal_torch_cross_entropy(*, b: int, scale: float, seed: int, dtype: str) -> None:
    """In fp32 a logit of size t is off by t * 1e-6 at most, and a loss by twice that."""
    rounded_to = {"f8": torch.float64, "f4": torch.float32, "f2": torch.float16}[dtype]
    members = made.model(np.random.default_rng(seed), b, 4, scale=scale, dtype=rounded_to)
    logits_bb = scale * members.image.double() @ members.text.double().T
    own_b = torch.arange(b)
    both = [torch.nn.functional.cross_entropy(rows_bb, own_b, reduction="none") for rows_bb in (logits_bb, logits_bb.T)]
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == "f8" else {"rtol": 1e-5, "atol": 2e-6 * scale}
    np.testing.assert_allclose(own_conditional_loss(members, loss="softmax"), (both[0] + both[1]) / 2, **tolerance)
    assert set_loss(members, loss="softmax") == pytest.approx(
        float(both[0].sum() + both[1].sum()) / 2, rel=tolerance["rtol"], abs=b * tolerance["atol"]
    )


@settings(deadline=None)
@given(bias=st.floats(-1e3, 1e3))
def test_a_bias_changes_no_bit_of_a_softmax_loss(bias: float) -> None:
    members = made.model(np.random.default_rng(0), 9, 4, dtype=torch.float32)
    biased = replace(members, logit_bias=bias)
    for loss_of in (
        lambda model: own_conditional_loss(model, loss="softmax"),
        lambda model: probe_loss(model, np.arange(3)),
    ):
        assert loss_of(members).numpy().tobytes() == loss_of(biased).numpy().tobytes()


@settings(deadline=None)
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


def test_softmax_loss_is_right_across_the_edges_of_tiles() -> None:
    members = made.model(np.random.default_rng(0), 1100, 3, scale=20.0)
    logits_BB = 20.0 * members.image @ members.text.T
    expected_B = (logits_BB.logsumexp(0) + logits_BB.logsumexp(1)) / 2 - logits_BB.diagonal()
    np.testing.assert_allclose(own_conditional_loss(members, loss="softmax"), expected_B, rtol=1e-10, atol=1e-13)
    probe = np.random.default_rng(1).permutation(1100)[:300]
    for i in (0, 511, 512, int(probe[0]), int(probe[-1])):
        expected = plain.softmax_loss(logits_BB.numpy(), i, probe.tolist())
        assert probe_loss(members, probe)[i] == pytest.approx(expected, rel=1e-10, abs=1e-13)


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
    np.testing.assert_allclose(own_conditional_loss(wrong, loss="softmax"), [400.0, 400.0], rtol=1e-6)
    np.testing.assert_allclose(own_conditional_loss(right, loss="softmax"), [np.exp(-400.0)] * 2, rtol=1e-3)
    np.testing.assert_allclose(probe_loss(right, np.array([0])), [0.0, np.exp(-400.0)], rtol=1e-3)


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
