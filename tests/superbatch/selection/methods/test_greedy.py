"""Greedy selection takes, step by step, the row that an exhaustive search would take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.selection import Candidates, DualEmbeddings, Selection, SelectionSpec, TooFewCandidates, select
from tests.superbatch.selection import made, plain

CRITERIA = ("learnability", "easy_reference", "hard_learner")
LOSSES = ("sigmoid", "softmax")


def greedy(**fields: object) -> SelectionSpec:
    return SelectionSpec(**({"method": "greedy", "criterion": "learnability", "b": 4, "num_chunks": 1} | fields))  # type: ignore[arg-type]


def criterion_of(candidates: Candidates, spec: SelectionSpec, members: list[int]) -> float:
    if spec.loss == "softmax":
        return plain.softmax_criterion(candidates, spec, members)
    return float(plain.criterion_matrix(candidates, spec.criterion, spec.weights)[np.ix_(members, members)].sum())


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 8),
    seed=st.integers(0, 1000),
    criterion=st.sampled_from(CRITERIA),
    loss=st.sampled_from(LOSSES),
    data=st.data(),
)
def test_each_step_is_the_best_of_all_batches_one_larger(
    *, B: int, seed: int, criterion: str, loss: str, data: st.DataObject
) -> None:
    candidates = made.candidates(B, width=3, seed=seed, learner_scale=8.0, reference_scale=11.0)
    b = data.draw(st.integers(1, B))
    spec = greedy(criterion=criterion, loss=loss, b=b, weights=(1.0, 0.7), seed=seed)
    chosen = select(candidates, spec).chosen_index.tolist()
    start = 0
    if loss == "softmax":  # the first rise is 0 for all, so the probe decides
        against_probe = plain.softmax_scorer(candidates, spec)
        assert chosen[0] == max(range(B), key=lambda i: against_probe(i, []))
        start = 1
    for size in range(start, b):
        others = [i for i in range(B) if i not in chosen[:size]]
        criterion_with = {i: criterion_of(candidates, spec, [*chosen[:size], i]) for i in others}
        assert chosen[size] == max(others, key=lambda i: criterion_with[i])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("first_round", ["probe", "diagonal"])
def test_greedy_is_the_marginal_top_1_of_every_round(loss: str, first_round: str) -> None:
    prior = np.random.default_rng(0).standard_normal(60)
    candidates = made.candidates(60, prior=prior, eligible=np.arange(60) % 7 != 3)
    spec = greedy(loss=loss, b=15, first_round=first_round, gain=2.0, seed=1)
    got = select(candidates, spec)
    fields = {"method": "joint", "num_chunks": 15, "sampling": "top_k", "softmax_score": "marginal"}
    expected = select(candidates, replace(spec, **fields))  # type: ignore[arg-type]
    assert as_bytes(got) == as_bytes(expected)
    assert got.round[got.chosen_index].tolist() == list(range(1, 16))


def as_bytes(selection: Selection) -> list[bytes]:
    fields = (selection.chosen_index, selection.round, selection.score, selection.perturbed)
    return [field.tobytes() for field in fields]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prior", [None, 1])
def test_greedy_equals_the_slow_selection(loss: str, prior: int | None) -> None:
    prior_B = None if prior is None else np.random.default_rng(prior).standard_normal(20)
    candidates = made.candidates(20, learner_scale=8.0, reference_scale=11.0, prior=prior_B)
    spec = greedy(loss=loss, b=9, gain=2.0, sampling="gumbel")
    got = select(candidates, spec)
    chosen, rounds, score, perturbed = plain.select(candidates, spec)
    assert (got.chosen_index.tolist(), got.round.tolist()) == (chosen, rounds)
    np.testing.assert_allclose(got.score, score, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.perturbed, perturbed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_rows_come_by_uid_then_dataset_index(loss: str) -> None:
    uid = np.zeros((6, 16), np.uint8)
    uid[:, 0] = [9, 1, 5, 1, 0, 7]
    content = np.random.default_rng(0).integers(0, 256, (6, 16), dtype=np.uint8)
    one = torch.eye(2, dtype=torch.float64)[:1].expand(6, 2).contiguous()
    same = DualEmbeddings(one, one, 10.0, -10.0)
    index = np.array([1, 8, 2, 3, 4, 5])
    candidates = Candidates(uid=uid, dataset_index=index, learner=same, reference=same, content=content)
    spec = greedy(loss=loss, b=5, criterion="hard_learner")
    assert select(candidates, spec).chosen_index.tolist() == [4, 3, 1, 2, 5]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_seed_decides_nothing_but_the_probe(loss: str) -> None:
    candidates = made.candidates(80, learner_scale=8.0, reference_scale=11.0)
    first_round = "diagonal" if loss == "softmax" else "probe"
    choices = [
        select(candidates, greedy(loss=loss, b=20, first_round=first_round, seed=seed)).chosen_index.tolist()
        for seed in range(3)
    ]
    assert choices[0] == choices[1] == choices[2]


@pytest.mark.parametrize("loss", LOSSES)
def test_exclusions_hold_at_every_step(loss: str) -> None:
    """Like rows of the batch are passed over: the next best that is left is taken."""
    rng = np.random.default_rng(2)
    plainly = made.candidates(40, learner_scale=8.0, reference_scale=11.0, eligible=rng.random(40) < 0.9)
    content = plainly.uid.copy()
    content[20:] = content[:20]
    candidates = replace(plainly, content=content, times_chosen=(np.arange(40) % 5 == 0).astype(np.int64))
    assert candidates.reference is not None
    spec = greedy(loss=loss, b=8, repetition_cap=1, max_cosine=0.8, first_round="diagonal")
    chosen = select(candidates, spec).chosen_index.tolist()
    image = candidates.reference.image
    never = (candidates.eligible == 0) | (np.arange(40) % 5 == 0)
    score_given = plain.scorer(candidates, spec)

    def may_join(i: int, batch: list[int]) -> bool:
        alike = [k for k in batch if i % 20 == k % 20 or image[i] @ image[k] >= 0.8]
        return i not in batch and not never[i] and not alike

    for size in range(8):
        batch = chosen[:size]
        left = [i for i in range(40) if may_join(i, batch)]
        assert chosen[size] == max(left, key=lambda i: score_given(i, batch))
    passed_over = [i for i in range(40) if not never[i] and i not in chosen and not may_join(i, chosen)]
    assert passed_over  # the rules did bite


def test_too_few_apart_from_each_other_are_refused() -> None:
    candidates = made.candidates(30, width=2)
    with pytest.raises(TooFewCandidates):
        select(candidates, greedy(b=25, max_cosine=0.5))
