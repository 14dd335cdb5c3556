"""Which running score a loss has."""

from __future__ import annotations

from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import RunningScore
from superbatch.selection.methods.sigmoid import SigmoidRunningSum


def running_score(problem: Problem) -> RunningScore:
    """Return the score of every candidate given those chosen so far, of which there are none yet."""
    return SigmoidRunningSum(problem)
