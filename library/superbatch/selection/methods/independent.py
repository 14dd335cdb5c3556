"""Independent selection: the criterion of each example alone, as a joint selection of one round."""

from __future__ import annotations

from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import draw_in_rounds
from superbatch.selection.methods.running import running_score
from superbatch.selection.spec import Selection


def select_independent(problem: Problem) -> Selection:
    """Return b candidates drawn, or taken, by their own criterion alone: s_i = S_ii, or against the probe.

    Equal to the joint selection with N = 1, choice by choice. Under sigmoid no pair of candidates is compared; under
    softmax every candidate is compared with the probe.
    Args:
        problem: all fields of its spec but `method`, `num_chunks` and `softmax_score` are read.
    Returns: see `Selection`; every round is 1.
    Cost: 2*B*D FLOPs per model; with a probe of m rows 2 products of 2*B*m*D FLOPs per model; memory O(B + m*D).
    Source: JEST (arXiv:2406.17711), section 3, "independent example selection".
    """
    return draw_in_rounds(problem, running=running_score(problem), sizes=[problem.spec.b])
