"""Made candidates: random ones, and clusters in which some examples confuse the learner but not the reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from superbatch.selection import Candidates, DualEmbeddings, GumbelNoise, SelectionSpec
from superbatch.selection.checks import checked_model
from superbatch.selection.dispatch import used_models
from superbatch.selection.exclusions import find_copies
from superbatch.selection.methods.peers import Drawn, OneProcess
from superbatch.selection.methods.problem import Problem
from superbatch.selection.pairs.cpu import CpuEngine


def unit_rows(rows: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).to(dtype)


def model(
    rng: np.random.Generator,
    num_rows: int,
    width: int,
    *,
    scale: float = 100.0,
    bias: float = -10.0,
    noise: float = 0.7,
    dtype: torch.dtype = torch.float64,
) -> DualEmbeddings:
    """Pairs whose two towers share a direction, up to noise."""
    shared = rng.standard_normal((num_rows, width))
    towers = [unit_rows(shared + noise * rng.standard_normal((num_rows, width)), dtype) for _ in range(2)]
    return DualEmbeddings(*towers, scale, bias)


def candidates(
    num_rows: int,
    *,
    width: int = 8,
    seed: int = 0,
    learner_scale: float = 30.0,
    reference_scale: float = 60.0,
    dtype: torch.dtype = torch.float64,
    prior: np.ndarray | None = None,
    eligible: np.ndarray | None = None,
) -> Candidates:
    rng = np.random.default_rng(seed)
    return Candidates(
        uid=rng.integers(0, 256, (num_rows, 16), dtype=np.uint8),
        dataset_index=rng.permutation(10 * num_rows)[:num_rows].astype(np.int64),
        learner=model(rng, num_rows, width, scale=learner_scale, dtype=dtype),
        reference=model(rng, num_rows, width, scale=reference_scale, bias=-12.0, noise=0.3, dtype=dtype),
        prior=prior,
        eligible=eligible,
    )


def clusters(
    seed: int, *, num_clusters: int = 32, per_cluster: int = 40, width: int = 64, own_to_learner: float = 0.5
) -> Candidates:
    """Rows of one cluster look alike to the learner and apart to the reference, at t = 100.

    Two rows of one cluster are thus learnable negatives of each other: a batch gains by holding whole clusters, which
    no score of single rows can see.
    """
    rng = np.random.default_rng(seed)
    B = num_clusters * per_cluster
    centre = np.repeat(rng.standard_normal((num_clusters, width)), per_cluster, axis=0)
    own = rng.standard_normal((B, width))

    def seen(own_part: float) -> DualEmbeddings:
        towers = [centre + own_part * own + 0.1 * rng.standard_normal((B, width)) for _ in range(2)]
        return DualEmbeddings(*(unit_rows(tower, torch.float32) for tower in towers), 100.0, -40.0)

    return Candidates(
        uid=rng.integers(0, 256, (B, 16), dtype=np.uint8),
        dataset_index=np.arange(B, dtype=np.int64),
        learner=seen(own_to_learner),
        reference=seen(2.0),
    )


def permuted(those: Candidates, order: np.ndarray) -> Candidates:
    """The same candidates at other positions: the new position p holds the old position order[p]."""
    return Candidates(
        uid=those.uid[order],
        dataset_index=those.dataset_index[order],
        learner=None if those.learner is None else those.learner.take(order),
        reference=None if those.reference is None else those.reference.take(order),
        prior=None if those.prior is None else those.prior[order],
        eligible=None if those.eligible is None else those.eligible[order],
        content=None if those.content is None else those.content[order],
        times_chosen=None if those.times_chosen is None else those.times_chosen[order],
    )


def problem(those: Candidates, spec: SelectionSpec) -> Problem:
    """What a method is given, in fp64 on the CPU."""
    models = [checked_model(name, weight, model, those) for name, weight, model in used_models(those, spec)]
    return Problem(
        candidates=those,
        spec=spec,
        models=[model for model in models if model.weight != 0.0],
        near=those.reference if spec.max_cosine is not None else None,
        copies=find_copies(those, spec, peers=OneProcess()),
        engine=CpuEngine(len(those), compute_dtype=torch.float64),
        peers=OneProcess(),
        noise=GumbelNoise(spec.seed, spec.seq, uids=those.uid),
        device=torch.device("cpu"),
    )


def drawn(rows: list[int]) -> Drawn:
    """These rows, drawn in this order."""
    return Drawn(torch.tensor(rows), torch.arange(len(rows)), len(rows))
