"""The matrices of all pairs give the criterion of any set, and exactly what a row adds to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.selection import Candidates, InvalidSelection, SelectionSpec, select, set_loss
from superbatch.selection.methods.full_matrix import MOST_CANDIDATES, check_full_matrix, full_matrix
from superbatch.selection.methods.peers import OneProcess
from tests.superbatch.selection import made, plain

CRITERIA = ("learnability", "easy_reference", "hard_learner")


def plain_criterion(candidates: made.Candidates, spec: SelectionSpec, members: list[int]) -> float:
    if spec.loss == "softmax":
        return plain.softmax_criterion(candidates, spec, members)
    return float(plain.criterion_matrix(candidates, spec.criterion, spec.weights)[np.ix_(members, members)].sum())


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 14),
    seed=st.integers(0, 1000),
    criterion=st.sampled_from(CRITERIA),
    loss=st.sampled_from(["sigmoid", "softmax"]),
    scale=st.sampled_from([1.0, 30.0, 200.0]),
    data=st.data(),
)
def test_criterion_and_rise_are_those_of_the_definition(
    *, B: int, seed: int, criterion: str, loss: str, scale: float, data: st.DataObject
) -> None:
    candidates = made.candidates(B, seed=seed, learner_scale=scale, reference_scale=0.9 * scale)
    spec = SelectionSpec("gibbs", criterion, 1, 1, weights=(0.7, 1.0), loss=loss)  # type: ignore[arg-type]
    matrix = full_matrix(made.problem(candidates, spec))
    members = data.draw(st.permutations(range(B)))[: data.draw(st.integers(0, B - 1))]
    before = plain_criterion(candidates, spec, members)
    index = torch.tensor(members, dtype=torch.int64)
    assert matrix.criterion(index) == pytest.approx(before, rel=1e-9, abs=1e-9 * scale * B)
    rise_B = matrix.rise(index)
    for i in set(range(B)) - set(members):
        after = plain_criterion(candidates, spec, [*members, i])
        assert rise_B[i] == pytest.approx(after - before, rel=1e-9, abs=1e-11 * scale * B**2)


def test_the_rise_is_right_for_more_members_than_are_taken_at_once() -> None:
    candidates = made.candidates(300, learner_scale=20.0)
    spec = SelectionSpec("gibbs", "hard_learner", 1, 1, loss="softmax")
    matrix = full_matrix(made.problem(candidates, spec))
    members = np.random.default_rng(0).permutation(300)[:290]
    rise_B = matrix.rise(torch.from_numpy(members))
    ((_, logits_BB),) = plain.weighted_logits(candidates, spec)
    before = plain.softmax_set_loss(logits_BB, members.tolist())
    for i in (int(np.setdiff1d(np.arange(300), members)[0]), int(np.setdiff1d(np.arange(300), members)[-1])):
        after = plain.softmax_set_loss(logits_BB, [*members.tolist(), i])
        assert rise_B[i] == pytest.approx(after - before, rel=1e-9)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_fp32_sets_have_the_criterion_of_the_losses(loss: Any) -> None:
    """At t = 100 a logit in fp32 is off by 1e-5; 64 losses of it add up to less than 0.01."""
    candidates = made.clusters(0, num_clusters=8, per_cluster=20)
    problem = made.problem(candidates, SelectionSpec("gibbs", "learnability", 1, 1, loss=loss))
    members = np.random.default_rng(0).permutation(160)[:64]
    assert candidates.learner is not None
    assert candidates.reference is not None
    learner, reference = candidates.learner.take(members), candidates.reference.take(members)
    expected = set_loss(learner, loss=loss) - set_loss(reference, loss=loss)
    assert full_matrix(problem).criterion(torch.from_numpy(members)) == pytest.approx(expected, abs=0.01)


ASKS = [
    {"method": "greedy", "loss": "softmax"},
    {"method": "gibbs", "loss": "sigmoid"},
    {"method": "gibbs", "loss": "softmax"},
    {"method": "joint", "loss": "softmax", "softmax_score": "marginal"},
]
ASKS_NOT = [
    {"method": "greedy", "loss": "sigmoid"},
    {"method": "joint", "loss": "softmax"},
    {"method": "joint", "loss": "sigmoid", "softmax_score": "marginal"},
    {"method": "independent", "loss": "softmax", "softmax_score": "marginal"},
    {"method": "uniform", "loss": "softmax", "softmax_score": "marginal"},
]


def spec_of(fields: dict[str, str]) -> SelectionSpec:
    return SelectionSpec(**({"criterion": "learnability", "b": 1, "num_chunks": 1} | fields))  # type: ignore[arg-type]


class TwoProcesses(OneProcess):
    def total(self, count: int) -> int:
        return 2 * count


@pytest.mark.parametrize("fields", ASKS, ids=str)
def test_too_many_candidates_for_a_full_matrix_are_refused(fields: dict[str, str]) -> None:
    check_full_matrix(spec_of(fields), MOST_CANDIDATES, peers=OneProcess())
    with pytest.raises(
        InvalidSelection, match=rf"at most {MOST_CANDIDATES} candidates; got {MOST_CANDIDATES + 1}\. Use"
    ):
        check_full_matrix(spec_of(fields), MOST_CANDIDATES + 1, peers=OneProcess())
    with pytest.raises(InvalidSelection, match=r"in one process; got 2 processes\. Use"):
        check_full_matrix(spec_of(fields), 10, peers=TwoProcesses())


@pytest.mark.parametrize("fields", ASKS_NOT, ids=str)
def test_methods_without_a_full_matrix_take_any_number(fields: dict[str, str]) -> None:
    check_full_matrix(spec_of(fields), MOST_CANDIDATES + 1, peers=TwoProcesses())


def test_the_refusal_comes_before_any_embedding_is_read() -> None:
    B = MOST_CANDIDATES + 1
    broken = made.model(np.random.default_rng(0), B, 2, dtype=torch.float32).map_towers(lambda tower: tower * torch.nan)
    uid = np.random.default_rng(0).integers(0, 256, (B, 16), dtype=np.uint8)
    candidates = Candidates(uid=uid, dataset_index=np.arange(B), learner=broken, reference=broken)
    spec = SelectionSpec("joint", "learnability", 8, 2, loss="softmax", softmax_score="marginal")
    with pytest.raises(InvalidSelection, match="softmax_score marginal compares all pairs"):
        select(candidates, spec)
    with pytest.raises(InvalidSelection, match="greedy compares all pairs"):
        select(candidates, replace(spec, method="greedy"))
