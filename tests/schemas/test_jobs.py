"""Rules of a job spec that no single field can hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method

NOTHING_TO_SCORE_BY = [
    ({"weights": [0, 0]}, "weights must leave criterion"),
    ({"weights": [1, 0]}, "criterion easy_reference"),  # before the first checkpoint
    ({"criterion": "hard_learner", "weights": [0, 1]}, "criterion hard_learner"),
    ({"weights": {"points": [[0, [1, 1]], [2, [0, 0]]], "between": "linear"}}, "at seq 2"),
]


@pytest.mark.parametrize(("selection", "said"), NOTHING_TO_SCORE_BY)
def test_weights_that_leave_nothing_to_score_by(selection: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        pushed_spec(selection)


def test_weights_of_a_criterion_that_is_never_used_do_not_matter() -> None:
    points = [[0, "hard_learner"], [5, "easy_reference"]]
    weights = {"points": [[0, [1, 0]], [5, [0, 1]]], "between": "step"}
    selection = {"criterion": {"points": points}, "weights": weights}
    assert pushed_spec(selection, before_first="uniform").num_batches == 10


REFERENCE, LEARNER = "model_" + "0" * 16, "model_" + "1" * 16
FIXED, PUSHED = {"model": LEARNER}, {"model": LEARNER, "updates": "pushed"}
HARD_LEARNER = {"criterion": "hard_learner", "max_cosine": 0.95}

FULL = {"resolution": 224, "patch": 16, "flops_fraction": 1.0, "share": 0.5}
LOW = {"resolution": 224, "patch": 32, "flops_fraction": 0.28, "share": 0.5}

CONTRADICTIONS = [
    ({"selection": {"variants": [LOW, FULL]}}, "variant 0 is the full one, flops_fraction 1; got 0.28"),
    ({"selection": {"variants": [FULL, LOW | {"share": 0.4}]}}, "sum to 1 within 0.001; got 0.9"),
    ({"selection": {"variants": [FULL | {"share": 0.95}, LOW | {"share": 0.05}]}}, r"got counts \[4, 0\] for b = 4"),
    ({"selection": {"variants": [FULL, LOW | {"flops_fraction": 1.5}]}}, "flops_fraction"),
    ({"selection": {"variants": [FULL, LOW | {"resolution": 0}]}}, "resolution"),
    ({"selection": {"method": "hard_negatives"}}, "hard_negatives needs max_cosine"),
    ({"selection": {"method": {"points": [[0, "joint"], [5, "hard_negatives"]]}}}, "hard_negatives needs max_cosine"),
    (
        {"selection": {"method": "hard_negatives", "max_cosine": 0.95}, "reference": None},
        "hard_negatives needs a reference",
    ),
    ({"selection": {"probe_size": 8}}, "probe_size = 8 under loss sigmoid"),
    ({"selection": {"first_round": "diagonal"}}, "first_round = diagonal, probe_size = None under loss sigmoid"),
    ({"selection": HARD_LEARNER | {"method": "uniform"}, "reference": None, "learner": None}, "and no learner"),
    (
        {"selection": HARD_LEARNER | {"method": "uniform"}, "reference": None, "learner": FIXED},
        "batches of method uniform",
    ),
    (
        {"selection": HARD_LEARNER, "reference": None, "learner": PUSHED, "refresh": {"before_first": "uniform"}},
        "batches of method uniform",
    ),
    (
        {
            "selection": HARD_LEARNER,
            "reference": None,
            "learner": PUSHED,
            "refresh": {"before_first": "initial_weights", "on_stale": "uniform"},
        },
        "batches of method uniform",
    ),
]


@pytest.mark.parametrize(("changes", "said"), CONTRADICTIONS)
def test_parameters_that_contradict_each_other(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of(**changes)


ACCEPTED = [
    {"selection": {"method": "hard_negatives", "max_cosine": 0.95}, "learner": None},
    {"selection": {"loss": "softmax", "probe_size": 4096, "precision": "bf16"}},
    {"selection": {"loss": "softmax", "first_round": "diagonal", "repetition_cap": 1}},
    {"selection": {"method": "uniform", "max_cosine": 1.0}, "learner": None},
    {"selection": HARD_LEARNER, "reference": None},
    {
        "selection": HARD_LEARNER,
        "reference": None,
        "learner": PUSHED,
        "refresh": {"before_first": "initial_weights", "on_stale": "use"},
    },
]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_parameters_that_fit_together(changes: dict[str, object]) -> None:
    assert spec_of(**changes).num_batches == 10


def test_only_methods_that_read_a_criterion_need_its_models() -> None:
    hard = spec_of(selection={"method": "hard_negatives", "max_cosine": 0.95}, learner=None)
    assert (hard.criteria(), hard.methods()) == (set(), {Method.HARD_NEGATIVES})
    points = [[0, "hard_negatives"], [5, "joint"]]
    mixed = spec_of(selection={"method": {"points": points}, "max_cosine": 0.95}, learner=PUSHED)
    assert mixed.criteria() == {Criterion.LEARNABILITY, Criterion.EASY_REFERENCE}
    assert mixed.methods() == {Method.HARD_NEGATIVES, Method.JOINT}
    stale = spec_of(learner=PUSHED, refresh={"on_stale": "uniform"})
    assert stale.methods() == {Method.JOINT, Method.UNIFORM}


def spec_of(**changes: object) -> CurateSpec:
    """Return a spec with a fixed learner and a reference."""
    fields: dict[str, object] = {
        "dataset": "dataset_" + "0" * 16,
        "reference": REFERENCE,
        "learner": FIXED,
        "num_batches": 10,
    }
    selection = changes.pop("selection", {})
    assert isinstance(selection, dict)
    return CurateSpec.model_validate(fields | {"selection": {"b": 4, "N": 2, **selection}} | changes)


def pushed_spec(selection: dict[str, object], *, before_first: str = "easy_reference") -> CurateSpec:
    """Return a spec with a pushed learner."""
    return CurateSpec.model_validate(
        {
            "dataset": "dataset_" + "0" * 16,
            "reference": "model_" + "0" * 16,
            "learner": {"model": "model_" + "1" * 16, "updates": "pushed"},
            "selection": {"b": 4, "N": 2, **selection},
            "refresh": {"before_first": before_first},
            "num_batches": 10,
        }
    )
