"""Made candidates of a benchmark.

Letters: B candidates, D width, C rows of one block.
"""

from __future__ import annotations

import numpy as np
import torch

from superbatch.selection import Candidates, DualEmbeddings

_ROWS_AT_ONCE = 4096


def made_candidates(B: int, D: int) -> Candidates:
    """Return random pairs at the logit scale of a trained learner and reference; memory beside the result is small."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    return Candidates(
        uid=rng.integers(0, 256, (B, 16), dtype=np.uint8),
        dataset_index=np.arange(B, dtype=np.int64),
        learner=_model(B, D, noise=1.0, logit_scale=60.0, generator=generator),
        reference=_model(B, D, noise=0.5, logit_scale=100.0, generator=generator),
    )


def towers(candidates: Candidates) -> list[torch.Tensor]:
    """Return the four embeddings of a candidate set."""
    assert candidates.learner is not None
    assert candidates.reference is not None
    return [tower for model in (candidates.learner, candidates.reference) for tower in (model.image, model.text)]


def _model(B: int, D: int, *, noise: float, logit_scale: float, generator: torch.Generator) -> DualEmbeddings:
    image_BD, text_BD = torch.empty(B, D), torch.empty(B, D)
    for start in range(0, B, _ROWS_AT_ONCE):
        C = min(_ROWS_AT_ONCE, B - start)
        shared_CD = torch.randn(C, D, generator=generator)
        for tower_BD in (image_BD, text_BD):
            tower_CD = shared_CD + noise * torch.randn(C, D, generator=generator)
            torch.nn.functional.normalize(tower_CD, dim=1, out=tower_BD[start : start + C])
    return DualEmbeddings(image_BD, text_BD, logit_scale=logit_scale, logit_bias=-10.0)
