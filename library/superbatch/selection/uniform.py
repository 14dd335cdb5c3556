"""Uniform selection: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from superbatch.selection.candidates import Candidates
from superbatch.selection.rounds import FixedScore, draw_in_rounds
from superbatch.selection.spec import Selection, SelectionSpec


def select_uniform(candidates: Candidates, spec: SelectionSpec) -> Selection:
    """Return b candidates drawn without replacement, each as likely as the prior says; no model is read.

    The batch is the b largest of prior plus noise of round 1. It is drawn whatever `sampling` says: the top of equal
    scores would be the b smallest uids, and so favour the same contents in every batch.
    Args:
        candidates: B rows; embeddings are neither needed nor looked at.
        spec: only b, seed and seq are read.
    Returns: see `Selection`; every score is 0 and every round 1.
    Raises: as `superbatch.selection.select`, which checks before any work; this function does not check.
    Cost: O(B).
    """
    drawn = replace(spec, sampling="gumbel")
    return draw_in_rounds(candidates, drawn, running=FixedScore(np.zeros(len(candidates))), sizes=[spec.b])
