"""Uniform selection: the baseline of every comparison."""

from __future__ import annotations

import torch

from superbatch.selection.methods.problem import Problem
from superbatch.selection.methods.rounds import Rounds
from superbatch.selection.spec import Selection


def select_uniform(problem: Problem) -> Selection:
    """Return b candidates drawn without replacement, each as likely as the prior says; no model is scored.

    The batch is the b largest of prior plus noise of round 1. It is drawn whatever `sampling` says: the top of equal
    scores would be the b smallest uids, and so favour the same contents in every batch.
    Args:
        problem: of its spec b, seed, seq, repetition_cap and max_cosine are read.
    Returns: see `Selection`; every score is 0 and every round 1.
    Cost: O(B).
    """
    rounds = Rounds(problem)
    rounds.draw(torch.zeros(len(problem.candidates), dtype=torch.float64, device=problem.device), problem.spec.b)
    return rounds.selection()
