"""One call for every method."""

from __future__ import annotations

from collections.abc import Callable

from superbatch.selection.candidates import Candidates
from superbatch.selection.checks import check_candidates
from superbatch.selection.criteria import weighted_models
from superbatch.selection.independent import select_independent
from superbatch.selection.joint import select_joint
from superbatch.selection.spec import Selection, SelectionSpec
from superbatch.selection.uniform import select_uniform

_METHODS: dict[str, Callable[[Candidates, SelectionSpec], Selection]] = {
    "joint": select_joint,
    "independent": select_independent,
    "uniform": select_uniform,
}


def select(candidates: Candidates, spec: SelectionSpec) -> Selection:
    """Return the batch that `spec` selects from the candidates, and the reasons.

    A pure function: the same candidates and spec give the same bytes on one machine with one number of threads. The
    choice does not depend on the order of the candidates but for the rounding of the scores. Near-duplicates are not
    excluded here and no embedding is changed.
    Args:
        candidates: B rows; embeddings of unit length within 2e-3, float32 or float64.
        spec: method, criterion, b, N, gain, weights, sampling, seed and seq.
    Returns: see `Selection`; exactly b distinct positions, none of them excluded.
    Raises:
        InvalidSelection, InvalidEmbeddings, TooFewCandidates: see `checks.check_candidates`; before any work.
    Cost: see the methods; the checks read the embeddings once.
    Source: JEST (arXiv:2406.17711).
    """
    uses_models = spec.method != "uniform"
    models = weighted_models(candidates, spec.criterion, weights=spec.weights) if uses_models else []
    check_candidates(candidates, models, b=spec.b)
    return _METHODS[spec.method](candidates, spec)
