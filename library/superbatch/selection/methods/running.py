"""Which running score a loss has."""

from __future__ import annotations

from superbatch.selection.methods.marginal import SoftmaxMarginal
from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import RunningScore
from superbatch.selection.methods.sigmoid import SigmoidRunningSum
from superbatch.selection.methods.softmax import SoftmaxRunningLogSumExp


def running_score(problem: Problem) -> RunningScore:
    """Return the score of every candidate given those chosen so far, of which there are none yet."""
    if problem.spec.loss == "sigmoid":
        return SigmoidRunningSum(problem)
    if problem.spec.softmax_score == "marginal":
        return SoftmaxMarginal(problem)
    return SoftmaxRunningLogSumExp(problem)


def marginal_score(problem: Problem) -> RunningScore:
    """Return the score that is exactly the rise of the batch's criterion, under either loss."""
    return SigmoidRunningSum(problem) if problem.spec.loss == "sigmoid" else SoftmaxMarginal(problem)
