"""Rules of a job spec that no single field can hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from superbatch_server.schemas.jobs import CurateSpec

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
