"""Bad input: one sentence each, with the place, before any work."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from superbatch.formats.errors import InvalidInput
from superbatch.selection import Candidates, SelectionSpec, select
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, TooFewCandidates
from tests.superbatch.selection import made

SPEC = SelectionSpec("joint", "learnability", 5, 2)


def spoiled(model: str, tower: str, value: float, *, row: int = 3, column: int = 2) -> Candidates:
    candidates = made.candidates(12)
    one = getattr(candidates, model)
    bad_BD = getattr(one, tower).clone()
    bad_BD[row, column] = value
    return replace(candidates, **{model: replace(one, **{tower: bad_BD})})


@pytest.mark.parametrize("model", ["learner", "reference"])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(model: str, tower: str, value: float) -> None:
    candidates = spoiled(model, tower, value)
    with pytest.raises(InvalidEmbeddings, match=f"got {value} .{model}, {tower} tower, row 3, .*column 2"):
        select(candidates, SPEC)
    for method in ("independent", "joint"):
        with pytest.raises(InvalidEmbeddings):
            select(candidates, replace(SPEC, method=method))


def test_a_model_that_the_criterion_does_not_use_is_not_looked_at() -> None:
    select(spoiled("learner", "image", np.nan), replace(SPEC, criterion="easy_reference"))
    select(spoiled("reference", "text", np.nan), replace(SPEC, criterion="hard_learner"))
    select(replace(made.candidates(12), learner=None, reference=None), replace(SPEC, method="uniform"))
    select(replace(made.candidates(12), learner=None), replace(SPEC, weights=(0.0, 1.0)))


def test_length_is_1_within_the_tolerance_of_fp16() -> None:
    candidates = made.candidates(12)
    assert candidates.learner is not None
    image_BD = candidates.learner.image
    half_BD = image_BD.half().double()
    select(replace(candidates, learner=replace(candidates.learner, image=half_BD)), SPEC)
    longer_BD = image_BD.clone()
    longer_BD[7] *= 1.003
    with pytest.raises(InvalidEmbeddings, match=r"length 1 within 0.002; got 1.003000 .learner, image tower, row 7"):
        select(replace(candidates, learner=replace(candidates.learner, image=longer_BD)), SPEC)


def change_learner(**fields: Any) -> Candidates:
    candidates = made.candidates(12)
    assert candidates.learner is not None
    return replace(candidates, learner=replace(candidates.learner, **fields))


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (change_learner(image=torch.ones(12, 3)), r"must be \[B, D\] with B = 12; got image \[12, 3\], text \[12, 8\]"),
        (change_learner(image=torch.ones(8), text=torch.ones(8)), r"got image \[8\]"),
        (change_learner(image=torch.ones(12, 8)), "got image torch.float32, text torch.float64"),
        (change_learner(text=torch.ones(12, 8).int(), image=torch.ones(12, 8).int()), "got image torch.int32"),
        (change_learner(text=made.candidates(12).learner.text.requires_grad_()), "must carry no gradient"),
        (change_learner(logit_scale=0.0), "logit_scale must be finite and above 0; got 0.0 .learner"),
        (change_learner(logit_scale=float("inf")), "logit_scale must be finite"),
        (change_learner(logit_bias=float("nan")), "logit_bias must be finite; got nan"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(candidates: Candidates, message: str) -> None:
    with pytest.raises(InvalidEmbeddings, match=message):
        select(candidates, SPEC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learner": None}, "learnability needs embeddings of the learner; got None"),
        ({"uid": np.zeros((12, 8), np.uint8)}, r"uid must be uint8 \[12, 16\]"),
        ({"dataset_index": np.arange(12, dtype=np.int32)}, r"dataset_index must be int64 \[12\]; got int32"),
        ({"dataset_index": np.array([*range(11), 4])}, "dataset_index 4 twice .rows 4 and 11"),
        ({"prior": np.zeros(11)}, r"prior must be float64 \[12\]"),
        ({"prior": np.where(np.arange(12) == 5, np.nan, 0.0)}, "prior must be finite.*got nan .row 5"),
        ({"prior": np.where(np.arange(12) == 6, np.inf, 0.0)}, "prior must be finite.*got inf .row 6"),
        ({"eligible": np.ones(12)}, r"eligible must be bool \[12\]"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSelection, match=message):
        select(replace(made.candidates(12), **fields), SPEC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_chunks": 6}, r"N must be in \[1, b\].*got 6"),
        ({"num_chunks": 0}, "N must be"),
        ({"b": 0, "num_chunks": 0}, "b must be at least 1"),
        ({"gain": float("nan")}, "gain must be"),
        ({"gain": -1.0}, "gain must be"),
        ({"method": "jest"}, "method must be one of joint"),
        ({"sampling": "greedy"}, "sampling must be"),
        ({"criterion": "loss"}, "criterion must be one of learnability"),
        ({"weights": (0.0, 0.0)}, "weights must leave"),
        ({"seed": -1}, "seed must fit"),
        ({"seq": 2**64}, "seq must fit"),
    ],
)
def test_parameters_out_of_range_are_refused_when_written(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSelection, match=message):
        replace(SPEC, **fields)


def test_too_few_candidates_are_counted_by_rule() -> None:
    eligible = np.arange(12) >= 3
    prior = np.where(np.arange(12) < 8, -np.inf, 0.0)
    candidates = made.candidates(12, eligible=eligible, prior=prior)
    for method in ("joint", "independent", "uniform"):
        with pytest.raises(TooFewCandidates, match=r"got 4 of 12 .excluded: 3 by eligible, 5 by prior") as caught:
            select(candidates, replace(SPEC, method=method))
        assert caught.value.counts == {"eligible": 3, "prior": 5}
        assert (caught.value.num_eligible, caught.value.code) == (4, "too_few_candidates")
    assert sorted(select(candidates, replace(SPEC, b=4)).chosen_index) == [8, 9, 10, 11]


def test_b_above_the_candidates_is_refused() -> None:
    with pytest.raises(TooFewCandidates, match=r"got 12 of 12 .no rule excluded any"):
        select(made.candidates(12), replace(SPEC, b=13))


def test_errors_belong_to_the_family_and_cross_processes() -> None:
    for error in (
        InvalidSelection("one"),
        InvalidEmbeddings("two"),
        TooFewCandidates(b=2, num_candidates=1, counts={}),
    ):
        assert isinstance(error, InvalidInput)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
