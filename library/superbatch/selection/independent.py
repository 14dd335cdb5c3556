"""Independent selection: the criterion of each example alone, as a joint selection of one round."""

from __future__ import annotations

from superbatch.selection.candidates import Candidates
from superbatch.selection.criteria import weighted_models
from superbatch.selection.joint import diagonal_score
from superbatch.selection.rounds import FixedScore, draw_in_rounds
from superbatch.selection.spec import Selection, SelectionSpec


def select_independent(candidates: Candidates, spec: SelectionSpec) -> Selection:
    """Return b candidates drawn, or taken, by their own criterion alone: s_i = S_ii.

    Equal to the joint selection with N = 1, choice by choice. No pair of candidates is compared.
    Args:
        candidates: B rows with embeddings of each model that the criterion uses.
        spec: all fields but `method` and `num_chunks` are read.
    Returns: see `Selection`; every round is 1.
    Raises: as `superbatch.selection.select`, which checks before any work; this function does not check.
    Cost: 2*B*D FLOPs per model; memory O(B).
    Source: JEST (arXiv:2406.17711), section 3, "independent example selection".
    """
    models = weighted_models(candidates, spec.criterion, weights=spec.weights)
    score_B = diagonal_score([(weight, model) for _, weight, model in models]).numpy(force=True)
    return draw_in_rounds(candidates, spec, running=FixedScore(score_B), sizes=[spec.b])
