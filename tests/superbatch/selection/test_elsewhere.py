"""Selections whose embeddings are not on the CPU, on a device made believe, where two devices never meet unseen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from superbatch.selection import Candidates, DualEmbeddings, GumbelNoise, InvalidSelection, Selection, SelectionSpec
from superbatch.selection import select as select_anywhere
from superbatch.selection.methods.draw import draw_largest, identity_rank, identity_rank_on
from tests.superbatch.selection import made
from tests.superbatch.selection.elsewhere import DEVICE, Elsewhere, ElsewhereTensor

METHODS = ("joint", "independent", "uniform", "hard_negatives", "greedy", "gibbs")


def moved(candidates: Candidates) -> Candidates:
    def move(model: DualEmbeddings | None) -> DualEmbeddings | None:
        return None if model is None else model.map_towers(lambda tower: tower.to(DEVICE))

    return dataclasses.replace(candidates, learner=move(candidates.learner), reference=move(candidates.reference))


def spec(**fields: object) -> SelectionSpec:
    asked = {"method": "joint", "criterion": "learnability", "b": 17, "num_chunks": 4, "seed": 3, "num_iterations": 12}
    return SelectionSpec(**(asked | fields))  # type: ignore[arg-type]


def with_exclusions(num_rows: int) -> Candidates:
    """Every rule excludes someone, and contents come two and three times."""
    rng = np.random.default_rng(0)
    those = made.candidates(num_rows)
    return dataclasses.replace(
        those,
        prior=np.where(rng.random(num_rows) < 0.1, -np.inf, rng.standard_normal(num_rows)),
        eligible=rng.random(num_rows) < 0.9,
        content=those.uid[np.arange(num_rows) // 3 * 2],
        times_chosen=rng.integers(0, 4, num_rows),
    )


def assert_same(got: Selection, expected: Selection) -> None:
    np.testing.assert_array_equal(got.chosen_index, expected.chosen_index)
    np.testing.assert_array_equal(got.round, expected.round)
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("max_cosine", [None, 0.9])
def test_every_method_works_where_the_embeddings_are(method: str, loss: str, max_cosine: float | None) -> None:
    if method == "hard_negatives" and max_cosine is None:
        pytest.skip("hard_negatives needs max_cosine")
    asked = spec(method=method, loss=loss, max_cosine=max_cosine)
    expected = select_anywhere(made.candidates(60), asked)
    with Elsewhere():
        assert_same(select_anywhere(moved(made.candidates(60)), asked), expected)


@pytest.mark.parametrize("fields", [{"softmax_score": "marginal"}, {"first_round": "diagonal"}, {"sampling": "top_k"}])
def test_every_score_works_there(fields: dict[str, object]) -> None:
    asked = spec(loss="softmax", **fields)
    expected = select_anywhere(made.candidates(60), asked)
    with Elsewhere():
        assert_same(select_anywhere(moved(made.candidates(60)), asked), expected)


@pytest.mark.parametrize("method", ["joint", "gibbs"])
def test_every_exclusion_works_there(method: str) -> None:
    asked = spec(method=method, repetition_cap=3, max_cosine=0.95)
    expected = select_anywhere(with_exclusions(150), asked)
    with Elsewhere():
        assert_same(select_anywhere(moved(with_exclusions(150)), asked), expected)


@pytest.mark.parametrize("noise_device", [torch.device("cpu"), DEVICE])
def test_noise_made_ahead_may_be_on_either_device(noise_device: torch.device) -> None:
    candidates, asked = made.candidates(60), spec(loss="softmax")
    expected = select_anywhere(candidates, asked)
    with Elsewhere():
        noise = GumbelNoise(asked.seed, asked.seq, uids=candidates.uid, device=noise_device).make_ahead(4)
        assert_same(select_anywhere(moved(candidates), asked, noise=noise), expected)
        assert_same(select_anywhere(candidates, asked, noise=noise), expected)


def test_a_round_waits_for_the_device_once() -> None:
    # Each wait leaves a GPU idle for some 20 microseconds and more, of some 3,000 that a round takes at the target.
    with Elsewhere() as elsewhere:
        waits = []
        for num_chunks in (4, 9):
            elsewhere.waits.clear()
            select_anywhere(moved(made.candidates(60)), spec(num_chunks=num_chunks))
            waits.append(elsewhere.waits.total())
    assert waits[1] - waits[0] == 9 - 4
    assert waits[0] - 4 == 10  # norms of two models, two searches for repeated numbers (two each), four results


def test_a_row_that_comes_twice_is_found_there() -> None:
    candidates = made.candidates(20)
    twice = dataclasses.replace(candidates, dataset_index=np.array([*range(19), 4]))
    with Elsewhere(), pytest.raises(InvalidSelection, match=r"dataset_index 4 twice \(rows 4 and 19\)"):
        select_anywhere(moved(twice), spec())


def test_ranks_are_those_of_the_cpu() -> None:
    rng = np.random.default_rng(1)
    uid = rng.integers(0, 256, (300, 16), dtype=np.uint8)
    uid[100:, :8] = uid[:200, :8]  # words alike, so that the second word and the index count
    uid[200:] = uid[:100]
    index = rng.permutation(300)
    with Elsewhere():
        got = identity_rank_on(DEVICE, uid, index)
    assert isinstance(got, ElsewhereTensor)
    np.testing.assert_array_equal(got.held.numpy(), identity_rank(uid, index))


@pytest.mark.parametrize("n", [1, 7, 40, 60, 90])
def test_draws_are_those_of_the_cpu_with_ties_and_minus_infinity(n: int) -> None:
    rng = np.random.default_rng(n)
    value = torch.from_numpy(rng.integers(-2, 3, 80).astype(np.float64)).log()  # NaN, -inf and three levels
    value = value.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    rank, free = torch.from_numpy(rng.permutation(80)), torch.from_numpy(rng.random(80) < 0.75)
    expected = draw_largest(value, n, rank=rank, free=free)
    with Elsewhere():
        there = [tensor.to(DEVICE) for tensor in (value, rank, free)]
        got = draw_largest(there[0], n, rank=there[1], free=there[2])
    assert isinstance(got, ElsewhereTensor)
    assert got.held.tolist() == expected.tolist()


ADD_ACROSS: list[Callable[[torch.Tensor, torch.Tensor], object]] = [
    lambda here, there: here + there,
    lambda here, there: there[here.long()],
    lambda here, there: there.numpy(),
]


@pytest.mark.parametrize("mixed", ADD_ACROSS)
def test_the_believed_device_refuses_what_a_gpu_refuses(mixed: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
    with Elsewhere(), pytest.raises(AssertionError):
        mixed(torch.zeros(3), torch.zeros(3, device=DEVICE))
