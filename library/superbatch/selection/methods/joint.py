"""Joint selection: the batch in N rounds, each round given all rounds before it."""

from __future__ import annotations

from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import draw_in_rounds
from superbatch.selection.methods.running import running_score
from superbatch.selection.spec import Selection


def select_joint(problem: Problem) -> Selection:
    """Return b candidates chosen together: each round given the rounds before it, N rounds.

    The score of a candidate is what `methods.sigmoid` or `methods.softmax` says for the loss. Neither loss needs a
    matrix of candidates: after a round, the pairs with the new chosen are added to one vector per direction and model.
    Args:
        problem: all fields of its spec but `method` are read.
    Returns: see `Selection`.
    Raises: TooFewCandidates, when near-duplicates of the batch leave fewer than b.
    Cost: per model 2 products of 2*B*b*(N-1)/N*D FLOPs; memory O(B + n*D) beside the embeddings. Softmax:
        and the probe, 2 products of 2*B*m*D FLOPs per model.
    Source: JEST (arXiv:2406.17711), Algorithm 1; departures are listed at `rounds.draw_in_rounds`.
    """
    sizes = chunk_sizes(problem.spec.b, problem.spec.num_chunks)
    return draw_in_rounds(problem, running=running_score(problem), sizes=sizes)
