"""One call for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.checks import check_candidates, check_enough, checked_model
from superbatch.selection.criteria import criterion_weights
from superbatch.selection.errors import InvalidSelection
from superbatch.selection.exclusions import find_copies
from superbatch.selection.methods.full_matrix import check_full_matrix
from superbatch.selection.methods.gibbs import select_gibbs
from superbatch.selection.methods.greedy import select_greedy
from superbatch.selection.methods.hard_negatives import select_hard_negatives
from superbatch.selection.methods.independent import select_independent
from superbatch.selection.methods.joint import select_joint
from superbatch.selection.methods.peers import OneProcess, Peers
from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.uniform import select_uniform
from superbatch.selection.noise import GumbelNoise, NoiseSource
from superbatch.selection.pairs.opening import open_engine
from superbatch.selection.spec import Selection, SelectionSpec

METHODS: dict[str, Callable[[Problem], Selection]] = {
    "joint": select_joint,
    "independent": select_independent,
    "uniform": select_uniform,
    "greedy": select_greedy,
    "hard_negatives": select_hard_negatives,
    "gibbs": select_gibbs,
}


def select(candidates: Candidates, spec: SelectionSpec, *, noise: NoiseSource | None = None) -> Selection:
    """Return the batch that `spec` selects from the candidates, and the reasons.

    A pure function: the same candidates and spec give the same bytes on one machine with one number of threads. The
    choice does not depend on the order of the candidates but for the rounding of the scores. No embedding is changed.
    Args:
        candidates: B rows; embeddings of unit length within 2e-3, in any float type, in memory or memory-mapped.
        spec: method, criterion, loss, b and the rest.
        noise: the Gumbel noise of (seed, seq, uid) where it was made ahead; None = made when needed.
    Returns: see `Selection`; exactly b distinct positions, none of them excluded, no content twice.
    Raises:
        InvalidSelection, InvalidEmbeddings: see `checks`; before any work.
        TooFewCandidates: exclusions leave fewer than b; before any work, but for near-duplicates of the batch itself.
    Cost: see the methods; the checks read the embeddings once.
    Source: JEST (arXiv:2406.17711).
    """
    return select_among(candidates, spec, noise=noise, peers=OneProcess())


def select_among(candidates: Candidates, spec: SelectionSpec, *, noise: NoiseSource | None, peers: Peers) -> Selection:
    """Return what `select` does for this process's part of the candidates; `peers` hold the others."""
    with opened_problem(candidates, spec, noise=noise, peers=peers) as problem:
        return METHODS[spec.method](problem)


@contextmanager
def opened_problem(
    candidates: Candidates, spec: SelectionSpec, *, noise: NoiseSource | None, peers: Peers
) -> Iterator[Problem]:
    """Yield what a method is given, having refused all that can be refused before any work."""
    used = used_models(candidates, spec)
    check_candidates(candidates, used)
    check_full_matrix(spec, peers.total(len(candidates)), peers=peers)
    device = used[0][2].image.device if used else torch.device("cpu")
    copies = find_copies(candidates, spec, peers=peers, device=device)
    check_enough(candidates, spec, copies, peers=peers)
    models = [checked_model(name, weight, model, candidates) for name, weight, model in used]
    with open_engine(len(candidates), device=device, compute_dtype=_compute_dtype(used, spec)) as engine:
        yield Problem(
            candidates=candidates,
            spec=spec,
            models=[model for model in models if model.weight != 0.0],
            near=None if spec.max_cosine is None else _near_model(candidates),
            copies=copies,
            engine=engine,
            peers=peers,
            noise=_brought_to(device, noise or GumbelNoise(spec.seed, spec.seq, uids=candidates.uid, device=device)),
            device=device,
        )


def _brought_to(device: torch.device, noise: NoiseSource) -> NoiseSource:
    """Return the same noise on the device, wherever it was made ahead."""
    return lambda round_index: noise(round_index).to(device)


def used_models(candidates: Candidates, spec: SelectionSpec) -> list[tuple[str, float, DualEmbeddings]]:
    """Return (name, signed weight, embeddings) of each model that the selection reads.

    The weight is 0 for a model that only says what is a near-duplicate.

    Raises:
        InvalidSelection: embeddings that the spec needs are missing.
    """
    weights = {"learner": 0.0, "reference": 0.0}
    if spec.method == "hard_negatives":
        weights["reference"] = 1.0
    elif spec.method != "uniform":
        weights["learner"], weights["reference"] = criterion_weights(spec.criterion, weights=spec.weights)
    given = {"learner": candidates.learner, "reference": candidates.reference}
    for name, weight in weights.items():
        if weight != 0.0 and given[name] is None:
            field = "method" if spec.method == "hard_negatives" else "criterion"
            raise InvalidSelection(
                f"{field} {getattr(spec, field)} needs embeddings of the {name}; got None. "
                f"Encode them, or change the {field}."
            )
    near = None
    if spec.max_cosine is not None:
        near = "learner" if candidates.reference is None else "reference"
        if given[near] is None:
            raise InvalidSelection("max_cosine needs embeddings of a model; got None. Encode them, or drop max_cosine.")
    named = ((name, weights[name], model) for name, model in given.items() if model is not None)
    return [(name, weight, model) for name, weight, model in named if weight != 0.0 or name == near]


def _near_model(candidates: Candidates) -> DualEmbeddings | None:
    """Return the model that says what is a near-duplicate; it may hold no rows, where other processes hold them all."""
    return candidates.learner if candidates.reference is None else candidates.reference


def _compute_dtype(used: list[tuple[str, float, DualEmbeddings]], spec: SelectionSpec) -> torch.dtype:
    if spec.precision == "bf16":
        return torch.bfloat16
    is_double = any(model.image.dtype == torch.float64 for _, _, model in used)
    return torch.float64 if is_double else torch.float32
