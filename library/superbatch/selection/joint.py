"""Joint selection under the sigmoid loss, by running sums.

Letters: B candidates, D width, n new chosen of one round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.block_threads import BlockThreads
from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.criteria import weighted_models
from superbatch.selection.draw import chunk_sizes
from superbatch.selection.losses import diagonal_loss
from superbatch.selection.pair_sums import Negatives, add_negative_losses
from superbatch.selection.rounds import draw_in_rounds
from superbatch.selection.spec import Selection, SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Float64, Int
    from torch import Tensor


def select_joint(candidates: Candidates, spec: SelectionSpec) -> Selection:
    """Return b candidates chosen together: each round given the rounds before it, N rounds.

    With S = w_l * P(learner) + w_r * P(reference), a free candidate's score is
    s_i = S_ii + sum over chosen k of (S_ki + S_ik): exactly the rise of the batch's sum of S when i joins it. Round 1
    thus draws from the diagonal alone. S is never formed: after a round, the pairs with the new chosen are added to one
    vector.
    Args:
        candidates: B rows with embeddings of each model that the criterion uses.
        spec: all fields but `method` are read.
    Returns: see `Selection`.
    Raises: as `superbatch.selection.select`, which checks before any work; this function does not check.
    Cost: per model 2 products of 2*B*b*(N-1)/N*D FLOPs; memory O(B + n*D) beside the embeddings.
    Source: JEST (arXiv:2406.17711), Algorithm 1; departures are listed at `rounds.draw_in_rounds`.
    """
    models = weighted_models(candidates, spec.criterion, weights=spec.weights)
    weighted = [(weight, model) for _, weight, model in models]
    with BlockThreads(len(candidates), weighted[0][1].image.device) as threads:
        running = SigmoidRunningSum(weighted, threads=threads)
        return draw_in_rounds(candidates, spec, running=running, sizes=chunk_sizes(spec.b, spec.num_chunks))


def diagonal_score(weighted: Sequence[tuple[float, DualEmbeddings]]) -> Float64[Tensor, " B"]:
    """Return S_ii, the criterion of each candidate alone."""
    terms = [weight * diagonal_loss(model) for weight, model in weighted]
    return torch.stack(terms).sum(0)


class SigmoidRunningSum:
    """s_i = S_ii + sum over chosen k of (S_ki + S_ik), kept as one fp64 vector.

    The sums of one tile are taken in the embeddings' own type; over tiles and rounds they are kept in fp64, which costs
    8 bytes per candidate and spares the late rounds the rounding of the early ones.
    """

    def __init__(self, weighted: Sequence[tuple[float, DualEmbeddings]], *, threads: BlockThreads) -> None:
        self._models = [(weight, model.map_towers(_aligned)) for weight, model in weighted]
        self._threads = threads
        self._score_B = diagonal_score(self._models)

    def score(self) -> Float64[np.ndarray, " B"]:
        """Return the scores given all that were added."""
        return self._score_B.numpy(force=True)

    def add(self, new_index: Int[np.ndarray, " n"]) -> None:
        """Add the pairs of every candidate with the new chosen, both directions, each model."""
        parts = self._threads.on_one_core(
            lambda: [Negatives(weight, model, model.take(new_index)) for weight, model in self._models]
        )
        add_negative_losses(self._score_B, parts, threads=self._threads)


def _aligned(tower_BD: Tensor) -> Tensor:
    """Return the tower in contiguous, cache-line-aligned memory, copied only where it is not.

    Equal input must give equal bits, and the libraries below promise that for aligned rows only.
    """
    is_aligned = tower_BD.is_contiguous() and tower_BD.data_ptr() % 64 == 0
    return tower_BD if is_aligned else tower_BD.clone(memory_format=torch.contiguous_format)
