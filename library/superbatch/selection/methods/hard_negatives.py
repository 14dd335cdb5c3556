"""Hard-negative mining: a batch of near neighbours, none of them near-copies.

Letters: B candidates, n new chosen of one round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import Rounds
from superbatch.selection.pairs.engine import EMPTY, PairReduction
from superbatch.selection.spec import Selection

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor


def select_hard_negatives(problem: Problem) -> Selection:
    """Return b candidates that are hard negatives of each other, filled greedily from anchors drawn at random.

    s_i = the largest of t*<image_i, text_k> and t*<image_k, text_i> over all chosen k, under the reference: how
    strongly the better model takes i for the partner of some member. Round 1 draws its share of the batch uniformly,
    as anchors; each later round takes the n nearest to any member (`top_k`), or draws them in proportion to exp(gain *
    s_i) (`gumbel`). With N = b and `top_k` that is one anchor, and then the nearest neighbour of the batch again and
    again. Near-copies, whose images' cosine is at least `max_cosine`, cannot both come in: they would be false
    negatives. Two different images with one caption are false negatives too, and each other's hardest: this rule does
    not see them, so give them one `content`. Fewer anchors (a larger N) make a batch of fewer and larger
    neighbourhoods; N = 1 is uniform.
    Args:
        problem: its spec has `max_cosine`; `criterion`, `weights`, `loss` and its own parameters are not read.
    Returns: see `Selection`; the score of the anchors is 0.
    Raises: TooFewCandidates, when near-duplicates of the batch leave fewer than b.
    Cost: 2 products of 2*B*b*(N-1)/N*D FLOPs, and 2*B*b*D for near-duplicates; memory O(B + n*D).
    Source: selection.md, "Also needed"; batches of neighbours around drawn anchors as in NGAME (arXiv:2207.04452), the
        exponential weight as in Robinson et al. (arXiv:2010.04592). We differ: neighbours of the batch as it grows
        instead of clusters made ahead; similarity across the two towers, since that is what both losses push apart;
        the reference's instead of the learner's, which a pool pass has already paid for; and near-copies are excluded
        by a threshold instead of a correction for false negatives.
    """
    sizes = chunk_sizes(problem.spec.b, problem.spec.num_chunks)
    rounds, nearest = Rounds(problem), NearestChosen(problem)
    for round_index, n in enumerate(sizes, start=1):
        # Anchors are always drawn: the top of equal scores would be the smallest uids, the same in every batch.
        is_drawn = round_index == 1 or problem.spec.sampling == "gumbel"
        new = rounds.draw(nearest.score(), n, with_noise=is_drawn)
        if round_index < len(sizes):
            nearest.add(new)
    return rounds.selection()


class NearestChosen:
    """See `RunningScore`: the largest logit, bias left out, of each candidate with any of the chosen, either way round;
    0 while nothing is chosen."""

    def __init__(self, problem: Problem) -> None:
        (self._model,) = problem.models
        self._problem = problem
        B = len(problem.candidates)
        self._largest_B = torch.full((B,), EMPTY["maximum"], dtype=torch.float64, device=problem.device)

    def score(self) -> Float64[Tensor, " B"]:
        """Return the scores given all that were added."""
        return self._largest_B.where(self._largest_B > EMPTY["maximum"], 0.0)

    def add(self, new: Drawn) -> None:
        """Compare every candidate with the new chosen, in both directions."""
        mine = self._model.embeddings
        chosen = self._problem.rows(mine, new)
        pairs = ((mine.image, chosen.text), (mine.text, chosen.image))
        requests = [PairReduction(left, right, mine.logit_scale, 0.0, how="maximum") for left, right in pairs]
        for logit_B in self._problem.engine.reduce(requests):
            self._largest_B = torch.maximum(self._largest_B, logit_B)
