"""Who scores a batch: the table of design.md 3.9, row by row. max_staleness is 10 throughout."""

from __future__ import annotations

import pytest

from superbatch_server.schemas.attempts import CheckpointCandidate, RefreshState
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.workers.refresh import Score, Wait, decide

LEARNABILITY, EASY, HARD = Criterion.LEARNABILITY, Criterion.EASY_REFERENCE, Criterion.HARD_LEARNER
JOINT, UNIFORM = Method.JOINT, Method.UNIFORM


def spec(*, updates: str = "pushed", **refresh: object) -> CurateSpec:
    return CurateSpec.model_validate(
        {
            "dataset": "dataset_0123456789abcdef",
            "reference": "model_0123456789abcdef",
            "learner": {"model": "model_0123456789abcdef", "updates": updates},
            "selection": {"b": 16},
            "num_batches": 100,
            "refresh": {"max_staleness": 10} | refresh,
        }
    )


def state(trained: int, *, active: int | None = None, live: bool = True) -> RefreshState:
    candidate = active is not None and CheckpointCandidate(
        id="c", sha256="0" * 64, trained_seq=active, generation=3, state=CheckpointState.ACTIVE, files=[]
    )
    return RefreshState(consumer_trained_seq=trained, consumer_live=live, active=candidate or None, unverified=None)


# spec, seq, consumer's trained_seq, ACTIVE's, consumer live, method, criterion -> rule, or what it waits for
TABLE = [
    # no credit where the learner is not pushed
    (spec(updates="none"), 99, 0, None, True, JOINT, LEARNABILITY, "fixed"),
    (spec(updates="none"), 99, 0, None, False, JOINT, HARD, "fixed"),
    (spec(updates="none"), 99, 0, None, True, JOINT, EASY, "no_learner"),
    (spec(updates="none"), 99, 0, None, True, UNIFORM, LEARNABILITY, "no_learner"),
    # credit: seq < trained_seq + 10, whatever scores
    (spec(), 9, 0, None, True, JOINT, LEARNABILITY, "easy_reference"),
    (spec(), 10, 0, None, True, JOINT, LEARNABILITY, "wait trainer"),
    (spec(), 10, 1, None, True, JOINT, LEARNABILITY, "easy_reference"),
    (spec(), 10, 0, None, True, UNIFORM, LEARNABILITY, "wait trainer"),
    (spec(), 9, 0, None, True, UNIFORM, LEARNABILITY, "no_learner"),
    (spec(), 9, 0, None, True, JOINT, EASY, "no_learner"),
    # a consumer whose ttl has passed pauses production
    (spec(), 9, 5, None, False, JOINT, LEARNABILITY, "wait trainer"),
    (spec(), 9, 5, 5, False, JOINT, EASY, "wait trainer"),
    # before the first checkpoint the rule stands in for as long as it takes
    (spec(before_first="uniform"), 5, 0, None, True, JOINT, LEARNABILITY, "uniform"),
    (spec(before_first="initial_weights"), 5, 0, None, True, JOINT, HARD, "initial_weights"),
    (spec(), 50, 45, None, True, JOINT, LEARNABILITY, "easy_reference"),
    (spec(on_stale="uniform"), 50, 45, None, True, JOINT, LEARNABILITY, "easy_reference"),
    # with a checkpoint: seq < trained_seq + 10, else on_stale
    (spec(), 14, 10, 5, True, JOINT, LEARNABILITY, "checkpoint"),
    (spec(), 15, 10, 5, True, JOINT, LEARNABILITY, "wait checkpoint"),
    (spec(on_stale="use"), 15, 10, 5, True, JOINT, LEARNABILITY, "checkpoint"),
    (spec(on_stale="uniform"), 15, 10, 5, True, JOINT, LEARNABILITY, "uniform"),
    (spec(on_stale="use"), 20, 10, 5, True, JOINT, LEARNABILITY, "wait trainer"),
    (spec(), 15, 10, 5, True, JOINT, EASY, "no_learner"),
    (spec(), 9, 0, 0, True, JOINT, LEARNABILITY, "checkpoint"),
    # a method that reads no criterion needs credit and nothing more
    (spec(), 15, 10, 5, True, Method.HARD_NEGATIVES, LEARNABILITY, "no_learner"),
    (spec(), 20, 10, 5, True, Method.HARD_NEGATIVES, LEARNABILITY, "wait trainer"),
]


@pytest.mark.parametrize("row", TABLE)
def test_decision(row: tuple[CurateSpec, int, int, int | None, bool, Method, Criterion, str]) -> None:
    job, seq, trained, active, live, method, criterion, expected = row
    found = decide(seq, job, state(trained, active=active, live=live), method=method, criterion=criterion)
    if isinstance(found, Wait):
        assert f"wait {found.waits_for}" == expected
    else:
        assert found.rule == expected
        assert (found.checkpoint is not None) == (expected == "checkpoint")


def test_the_checkpoint_that_scores_is_the_active_one() -> None:
    found = decide(3, spec(), state(0, active=2), method=JOINT, criterion=LEARNABILITY)
    assert isinstance(found, Score)
    assert found.checkpoint is not None
    assert (found.checkpoint.trained_seq, found.checkpoint.generation) == (2, 3)
