"""Greedy selection: one at a time, always the best; the yardstick without chance for tiny B."""

from __future__ import annotations

from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import Rounds
from superbatch.selection.methods.running import marginal_score
from superbatch.selection.spec import Selection


def select_greedy(problem: Problem) -> Selection:
    """Return the batch built one row at a time, each the candidate that raises the criterion of the batch the most.

    The rise is exact under both losses: under softmax the new row's effect on the denominators of those chosen counts.
    Nothing is drawn; ties go to the smaller uid, then the smaller dataset_index. A prior counts as everywhere: what is
    compared is gain * rise + prior. Under softmax the first rise is 0 for every row, so the first row is the best of
    `softmax.first_round_score`; with `first_round` = `diagonal` no seed matters at all.
    Args:
        problem: all fields of its spec but `method`, `num_chunks`, `sampling`, `softmax_score` and `num_iterations`
            are read.
    Returns: see `Selection`; rounds are 1 to b.
    Raises: TooFewCandidates, when near-duplicates of the batch leave fewer than b.
    Cost: sigmoid: per model 2 products of 2*B*b*D FLOPs, one column at a time. Softmax: 2*b*b*B exponentials per model
        and memory B*B per model; B is bounded by `full_matrix.check_full_matrix`.
    """
    rounds, running = Rounds(problem), marginal_score(problem)
    for missing in range(problem.spec.b, 0, -1):
        new = rounds.draw(running.score(), 1, with_noise=False)
        if missing > 1:
            running.add(new)
    return rounds.selection()
