"""What a selection looks at: the candidates of one super-batch, and their embeddings under up to two models.

Letters: B candidates, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.spec import SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class DualEmbeddings:
    """Both towers' embeddings of the same rows under one model, with that model's logit scale and bias.

    Row i of `image` and row i of `text` are a pair. The logit of image i and text j is
    `logit_scale * <image_i, text_j> + logit_bias`; `logit_scale` is t itself, not its logarithm. Under the softmax
    loss a bias has no effect. Towers are of one float type; they may lie in memory-mapped files and are read by blocks.
    """

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"]
    logit_scale: float
    logit_bias: float

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: Int[np.ndarray, " n"] | Int[Tensor, " n"]) -> DualEmbeddings:
        """Return a copy of the rows at `index`, in that order."""
        rows_n = torch.as_tensor(index).to(self.image.device)
        return self.map_towers(lambda tower_BD: tower_BD.index_select(0, rows_n))

    def map_towers(self, change: Callable[[Tensor], Tensor]) -> DualEmbeddings:
        """Return the same model with `change` applied to each tower."""
        return DualEmbeddings(change(self.image), change(self.text), self.logit_scale, self.logit_bias)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The B candidates of one super-batch; position i is the same row in every field.

    `uid` is the content identity and `dataset_index` tells equal contents apart; together they are distinct. Either
    model may be None where the criterion does not use it. `prior` is added to the log weight with which a candidate
    is drawn: 0 changes nothing, log 2 doubles its odds, -inf means never. `eligible` is False for rows never to choose.
    `content` is what may be in a batch once; None = the uid. Of rows of one uid and content, which have one noise and
    should have one embedding, only that with the largest prior, then the smallest dataset_index, may be chosen.
    `times_chosen` counts how often a row was chosen before, for a spec with a repetition cap; None = never. The cap
    holds per candidate: for a cap per content, give all rows of one content the sum of their counts.
    """

    uid: UInt8[np.ndarray, "B 16"]
    dataset_index: Int[np.ndarray, " B"]
    learner: DualEmbeddings | None = None
    reference: DualEmbeddings | None = None
    prior: Float[np.ndarray, " B"] | None = None
    eligible: Bool[np.ndarray, " B"] | None = None
    content: UInt8[np.ndarray, "B 16"] | None = None
    times_chosen: Int[np.ndarray, " B"] | None = None

    def __len__(self) -> int:
        return len(self.dataset_index)

    def exclusions(self, spec: SelectionSpec) -> dict[str, Bool[np.ndarray, " B"]]:
        """Return, per rule that excludes candidates from the start, the mask of those; the first rule counts."""
        masks_B: dict[str, np.ndarray] = {}
        if self.eligible is not None:
            masks_B["eligible"] = ~self.eligible
        if self.prior is not None:
            masks_B["prior"] = np.isneginf(self.prior)
        if spec.repetition_cap is not None and self.times_chosen is not None:
            masks_B["repetition_cap"] = self.times_chosen >= spec.repetition_cap
        return masks_B

    def log_prior(self, spec: SelectionSpec) -> Float[np.ndarray, " B"]:
        """Return the log of the prior weights, -inf where some rule says never."""
        log_prior_B = np.zeros(len(self)) if self.prior is None else self.prior.astype(np.float64)
        for mask_B in self.exclusions(spec).values():
            log_prior_B[mask_B] = -np.inf
        return log_prior_B


def at_least_float32(tower: Tensor) -> Tensor:
    """Return the values in float32, or in float64 where they are in float64."""
    return tower if tower.dtype in (torch.float32, torch.float64) else tower.float()
