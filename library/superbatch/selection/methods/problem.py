"""What every method is given: candidates that were checked, the models that count, and the means to work on them.

Letters: B candidates, D width, m drawn of this process, n drawn in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.exclusions import Copies, log_prior_without_copies
from superbatch.selection.methods.peers import Drawn, Peers
from superbatch.selection.noise import NoiseSource
from superbatch.selection.pairs.engine import PairEngine
from superbatch.selection.spec import SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """A model with the signed weight of its loss in the criterion, and the cosine of each of its pairs."""

    name: str
    weight: float
    embeddings: DualEmbeddings
    pair_cosine: Float64[Tensor, " B"]

    def pair_logit(self) -> Float64[Tensor, " B"]:
        """Return L_ii."""
        return self.pair_cosine * self.embeddings.logit_scale + self.embeddings.logit_bias


@dataclass(frozen=True, eq=False)
class Problem:
    """One selection to make. `models` are those whose weight is not 0; `near` is the model whose image embeddings
    say what is a near-duplicate, None where that is not asked for; `copies` say what is the same content, None where no
    content is there twice."""

    candidates: Candidates
    spec: SelectionSpec
    models: Sequence[ScoredModel]
    near: DualEmbeddings | None
    copies: Copies | None
    engine: PairEngine
    peers: Peers
    noise: NoiseSource
    device: torch.device

    def log_prior(self) -> Float64[Tensor, " B"]:
        """Return the log of the prior weights, -inf for those that can never come in, whatever is chosen."""
        return torch.from_numpy(log_prior_without_copies(self.candidates, self.spec, self.copies)).to(self.device)

    def rows(self, embeddings: DualEmbeddings, drawn: Drawn) -> DualEmbeddings:
        """Return the [n, D] embeddings of all drawn, in their order, in the engine's type or better."""
        return embeddings.take(drawn.index).map_towers(lambda tower_mD: self.peers.gather(tower_mD, drawn))
