"""Bad input: one sentence each, with the place, before any work."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from superbatch.formats.errors import InvalidInput
from superbatch.selection import Candidates, SelectionSpec, select
from superbatch.selection.dispatch import METHODS
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, TooFewCandidates
from tests.superbatch.selection import made

SPEC = SelectionSpec("joint", "learnability", 5, 2)


class Work(TorchDispatchMode):
    """Counts what a refusal must come before: products, and reading the embeddings to check them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_products = 0
        self.num_readings = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_products += "mm" in str(func)
        self.num_readings += "norm" in str(func)
        return func(*args, **(kwargs or {}))


def no_noise(round_index: int) -> torch.Tensor:
    raise AssertionError(f"noise of round {round_index} was made before the refusal")


def refused(candidates: Candidates, spec: SelectionSpec = SPEC, *, unread: bool = True) -> InvalidInput:
    """The refusal, which came before any product and any noise, and `unread`: before any embedding was read."""
    with Work() as work, pytest.raises(InvalidInput) as caught:
        select(candidates, spec, noise=no_noise)
    assert work.num_products == 0
    assert work.num_readings == 0 or not unread
    return caught.value


def test_the_proof_of_no_work_sees_work() -> None:
    candidates, spec = made.candidates(12), replace(SPEC, b=12)
    noise = made.problem(candidates, spec).noise
    with Work() as work:
        select(candidates, spec, noise=noise)
    assert work.num_products > 0
    assert work.num_readings > 0
    with pytest.raises(AssertionError, match="noise of round 1 was made"):
        select(candidates, spec, noise=no_noise)


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
    for method in ("joint", "independent", "greedy", "gibbs"):
        error = refused(candidates, replace(SPEC, method=method), unread=False)  # type: ignore[arg-type]
        assert isinstance(error, InvalidEmbeddings)
        place = f"{model}, {tower} tower, row 3, dataset_index {candidates.dataset_index[3]}, column 2"
        assert str(error) == f"embeddings must be finite; got {value} ({place}). Drop the row, and count it."


def test_a_model_that_only_says_what_is_near_is_checked_too() -> None:
    for method in ("uniform", "hard_negatives"):
        spec = replace(SPEC, method=method, max_cosine=0.9)  # type: ignore[arg-type]
        assert "reference, image tower, row 3" in str(
            refused(spoiled("reference", "image", np.nan), spec, unread=False)
        )
        select(spoiled("learner", "image", np.nan), spec)


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
        (change_learner(logit_scale=torch.tensor(2.0)), r"logit_scale must be finite.* got tensor\(2.\).* as a float"),
        (change_learner(logit_scale="30"), "logit_scale must be finite and above 0; got '30'"),
        (change_learner(logit_bias=None), "logit_bias must be finite; got None"),
        (
            change_learner(image=np.ones((12, 8))),
            r"must be torch tensors; got image ndarray float64 \[12, 8\], text Tens",
        ),
        (
            change_learner(image=torch.ones(12, 8, dtype=torch.float64, device="meta")),
            "both towers must be on one device; got image meta, text cpu .learner",
        ),
        (
            change_learner(
                **{tower: torch.ones(12, 8, dtype=torch.float64, device="meta") for tower in ("image", "text")}
            ),
            r"both models must be on one device; got \['cpu', 'meta'\]",
        ),
        (change_learner(**{tower: torch.ones(11, 8) for tower in ("image", "text")}), r"B = 12; got image \[11, 8\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(candidates: Candidates, message: str) -> None:
    error = refused(candidates)
    assert isinstance(error, InvalidEmbeddings)
    assert re.search(message, str(error)), error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learner": None}, "learnability needs embeddings of the learner; got None"),
        ({"uid": np.zeros((12, 8), np.uint8)}, r"uid must be a numpy array, uint8 \[12, 16\]"),
        (
            {"dataset_index": np.arange(12, dtype=np.int32)},
            r"dataset_index must be a numpy array, int64 \[12\]; got ndarray int32",
        ),
        ({"dataset_index": np.array([*range(11), 4])}, "dataset_index 4 twice .rows 4 and 11"),
        ({"prior": np.zeros(11)}, r"prior must be a numpy array, float64 \[12\]"),
        ({"prior": np.where(np.arange(12) == 5, np.nan, 0.0)}, "prior must be finite.*got nan .row 5"),
        ({"prior": np.where(np.arange(12) == 6, np.inf, 0.0)}, "prior must be finite.*got inf .row 6"),
        ({"eligible": np.ones(12)}, r"eligible must be a numpy array, bool \[12\]; got ndarray float64"),
        ({"eligible": [True] * 12}, r"eligible must be a numpy array, bool \[12\]; got list"),
        ({"uid": torch.zeros((12, 16), dtype=torch.uint8)}, "uid must be a numpy array.* got Tensor torch.uint8"),
        ({"dataset_index": list(range(12))}, "dataset_index must be a numpy array.* got list"),
        ({"content": np.zeros((12, 8), np.uint8)}, r"content must be a numpy array, uint8 \[12, 16\]"),
        ({"times_chosen": np.zeros(12)}, r"times_chosen must be a numpy array, int64 \[12\]"),
        ({"times_chosen": np.arange(12) - 1}, "times_chosen must be at least 0; got -1 .row 0"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    error = refused(replace(made.candidates(12), **fields))
    assert isinstance(error, InvalidSelection)
    assert re.search(message, str(error)), error


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
        ({"b": 2.5}, "b must be at least 1, an int.*got 2.5"),
        ({"b": 5.0}, "b must be at least 1, an int.*got 5.0"),
        ({"b": True, "num_chunks": 1}, "b must be at least 1, an int.*got True"),
        ({"b": np.int64(5)}, r"b must be at least 1, an int.*got np.int64\(5\)"),
        ({"b": None}, "b must be.*got None"),
        ({"b": "5"}, "b must be.*got '5'"),
        ({"num_chunks": 6, "method": "hard_negatives", "max_cosine": 0.9}, r"N must be in \[1, b\].*got 6"),
        ({"num_chunks": 2.0}, r"N must be in \[1, b\], an int.*got 2.0"),
        ({"num_chunks": "2"}, "N must be.*got '2'"),
        ({"gain": "1"}, "gain must be.*got '1'"),
        ({"gain": True}, "gain must be.*got True"),
        ({"gain": float("inf")}, "gain must be.*got inf"),
        ({"gain": None}, "gain must be.*got None"),
        ({"seed": "7"}, "seed must fit.*got '7'"),
        ({"seed": 1.0}, "seed must fit.*got 1.0"),
        ({"seq": False}, "seq must fit.*got False"),
        ({"weights": (1.0,)}, r"weights must be two numbers.*got \(1.0,\)"),
        ({"weights": 1.0}, "weights must be two numbers.*got 1.0"),
        ({"weights": ("a", 1.0)}, "weights must be two numbers.*got"),
        ({"weights": (float("nan"), 1.0)}, "weights must be two numbers.*got"),
        ({"criterion": ["learnability"]}, "criterion must be one of"),
        ({"method": None}, "method must be one of.*got None"),
        ({"loss": "clip"}, "loss must be one of sigmoid, softmax; got 'clip'"),
        ({"first_round": "zero"}, "first_round must be one of"),
        ({"softmax_score": 1}, "softmax_score must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"probe_size": 0}, "probe_size must be at least 1.*got 0"),
        ({"probe_size": 2.0}, "probe_size must be at least 1, an int.*got 2.0"),
        ({"repetition_cap": 0}, "repetition_cap must be at least 1.*got 0"),
        ({"repetition_cap": 1.5}, "repetition_cap must be.*got 1.5"),
        ({"max_cosine": float("nan")}, "max_cosine must be.*got nan"),
        ({"max_cosine": 0.0}, "max_cosine must be.*got 0.0"),
        ({"max_cosine": 1.01}, "max_cosine must be.*got 1.01"),
        ({"max_cosine": "0.9"}, "max_cosine must be.*got '0.9'"),
        ({"method": "hard_negatives"}, "hard_negatives needs max_cosine.*got None"),
        ({"num_iterations": 0}, "num_iterations must be"),
        ({"num_iterations": 10.0}, "num_iterations must be.*got 10.0"),
        ({"f": 1.0}, r"f must be in \[0, 1\), or None; .*got 1.0"),
        ({"f": float("nan")}, "f must be.*got nan"),
        ({"f": "0.8"}, "f must be.*got '0.8'"),
    ],
)
def test_parameters_out_of_range_are_refused_when_written(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSelection, match=message):
        replace(SPEC, **fields)


def test_too_few_candidates_are_counted_by_rule() -> None:
    eligible = np.arange(12) >= 3
    prior = np.where(np.arange(12) < 8, -np.inf, 0.0)
    candidates = made.candidates(12, eligible=eligible, prior=prior)
    for method in METHODS:
        error = refused(candidates, replace(SPEC, method=method, max_cosine=0.99))  # type: ignore[arg-type]
        assert isinstance(error, TooFewCandidates)
        assert "got 4 of 12 (excluded: 3 by eligible, 5 by prior)" in str(error)
        assert error.counts == {"eligible": 3, "prior": 5}
        assert (error.num_eligible, error.code) == (4, "too_few_candidates")
    assert sorted(select(candidates, replace(SPEC, b=4)).chosen_index) == [8, 9, 10, 11]


def test_rows_chosen_too_often_and_copies_are_counted_before_any_work() -> None:
    candidates = made.candidates(12, eligible=np.arange(12) >= 1)
    content = candidates.uid.copy()
    content[[0, 1, 2, 3, 4]] = content[[1, 1, 1, 1, 5]]
    candidates = replace(candidates, content=content, times_chosen=np.array([9, 9, 2, *[1] * 8, 3]))
    spec = replace(SPEC, b=8, repetition_cap=3)
    # 0 is not eligible, 1 and 11 were chosen 3 times; of 2 and 3, and of 4 and 5, one can come in.
    error = refused(candidates, spec)
    assert isinstance(error, TooFewCandidates)
    assert error.counts == {"eligible": 1, "repetition_cap": 2, "content": 2}
    assert error.num_eligible == 7
    assert len(select(candidates, replace(spec, b=7)).chosen_index) == 7
    assert len(select(candidates, replace(spec, b=8, repetition_cap=4)).chosen_index) == 8
    without_counts = replace(candidates, times_chosen=None)
    assert refused(without_counts, replace(spec, b=9)).counts == {"eligible": 1, "content": 3}  # type: ignore[attr-defined]


def test_what_near_duplicates_leave_is_counted_with_the_other_rules() -> None:
    candidates = made.candidates(12, prior=np.where(np.arange(12) == 0, -np.inf, 0.0))
    assert candidates.reference is not None
    image_BD = candidates.reference.image[[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]]
    content = candidates.uid[[0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    candidates = replace(candidates, content=content, reference=replace(candidates.reference, image=image_BD))
    for method in METHODS:
        spec = replace(SPEC, b=8, method=method, max_cosine=0.9999)  # type: ignore[arg-type]
        with pytest.raises(TooFewCandidates) as caught:
            select(candidates, spec)
        assert caught.value.counts == {"prior": 1, "content": 1, "max_cosine": 3}
        assert caught.value.num_eligible == 7
        assert len(select(candidates, replace(spec, b=7)).chosen_index) == 7


def test_a_row_behind_its_twin_is_counted_though_the_twin_did_not_come_in() -> None:
    """Of 0, 1 and 2, three equal images, one can come in; 4 is behind 3. Round 1 draws 0 and 5, round 2 wants three."""
    candidates = made.candidates(7, prior=np.array([100.0, 0.0, 0.0, 0.0, 0.0, 100.0, 0.0]))
    assert candidates.reference is not None
    candidates = replace(
        candidates,
        uid=candidates.uid[[0, 1, 2, 3, 3, 5, 6]],
        dataset_index=np.arange(7),
        reference=replace(candidates.reference, image=candidates.reference.image[[0, 0, 0, 3, 3, 5, 6]]),
    )
    with pytest.raises(TooFewCandidates) as caught:
        select(candidates, replace(SPEC, gain=0.0, max_cosine=0.9999))
    assert caught.value.counts == {"prior": 0, "content": 1, "max_cosine": 2}
    assert caught.value.num_eligible == 4


def test_f_and_b_and_the_candidates_must_agree() -> None:
    candidates = made.candidates(25)
    select(candidates, replace(SPEC, f=0.8))  # floor(5 / 0.2 + 1/2) = 25
    error = refused(candidates, replace(SPEC, f=0.5))
    assert isinstance(error, InvalidSelection)
    assert str(error) == (
        "b = 5 at f = 0.5 needs B = 10 candidates; got 25 (selection.f). Bring that many, or leave f out."
    )
    assert isinstance(refused(made.candidates(24), replace(SPEC, f=0.8)), InvalidSelection)
    select(made.candidates(5), replace(SPEC, f=0.0))


def test_b_above_the_candidates_is_refused() -> None:
    assert "got 12 of 12 (no rule excluded any)" in str(refused(made.candidates(12), replace(SPEC, b=13)))


def test_errors_belong_to_the_family_and_cross_processes() -> None:
    for error in (
        InvalidSelection("one"),
        InvalidEmbeddings("two"),
        TooFewCandidates(b=2, num_candidates=1, counts={}),
    ):
        assert isinstance(error, InvalidInput)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize("method", ["uniform", "independent", "greedy", "gibbs"])
def test_a_method_without_rounds_takes_any_number_of_them(method: Any) -> None:
    assert len(select(made.candidates(12), SelectionSpec(method, "learnability", b=5)).chosen_index) == 5
