"""Joint example selection for contrastive training (JEST, arXiv:2406.17711): the mathematics, and nothing else.

    batch = select(Candidates(uid=..., dataset_index=..., learner=..., reference=...),
                   SelectionSpec(method="joint", criterion="learnability", b=1638, seed=0, seq=0))

Names load on first use, so that `superbatch.selection.schedule` can be imported where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from superbatch.selection.candidates import Candidates, DualEmbeddings
    from superbatch.selection.criteria import criterion_weights
    from superbatch.selection.dispatch import select
    from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, PeerFailed, TooFewCandidates
    from superbatch.selection.losses import diagonal_loss, own_conditional_loss, probe_loss, set_loss
    from superbatch.selection.mapped import map_embeddings, map_tower
    from superbatch.selection.methods.softmax import probe_index
    from superbatch.selection.noise import GumbelNoise, gumbel
    from superbatch.selection.schedule import ScheduledParameters, SelectionSchedule
    from superbatch.selection.sharded import ShardedSelection, select_sharded
    from superbatch.selection.slots import draw_variants, in_slots, slot_permutation
    from superbatch.selection.spec import Selection, SelectionSpec
    from superbatch.selection.tower_files import write_tower
    from superbatch.selection.trace import gibbs_trace

__all__ = [
    "Candidates",
    "DualEmbeddings",
    "GumbelNoise",
    "InvalidEmbeddings",
    "InvalidSelection",
    "PeerFailed",
    "ScheduledParameters",
    "Selection",
    "SelectionSchedule",
    "SelectionSpec",
    "ShardedSelection",
    "TooFewCandidates",
    "criterion_weights",
    "diagonal_loss",
    "draw_variants",
    "gibbs_trace",
    "gumbel",
    "in_slots",
    "map_embeddings",
    "map_tower",
    "own_conditional_loss",
    "probe_index",
    "probe_loss",
    "select",
    "select_sharded",
    "set_loss",
    "slot_permutation",
    "write_tower",
]

_MODULES = {
    "candidates": ("Candidates", "DualEmbeddings"),
    "criteria": ("criterion_weights",),
    "dispatch": ("select",),
    "errors": ("InvalidEmbeddings", "InvalidSelection", "PeerFailed", "TooFewCandidates"),
    "losses": ("diagonal_loss", "own_conditional_loss", "probe_loss", "set_loss"),
    "mapped": ("map_embeddings", "map_tower"),
    "methods.softmax": ("probe_index",),
    "noise": ("GumbelNoise", "gumbel"),
    "schedule": ("ScheduledParameters", "SelectionSchedule"),
    "sharded": ("ShardedSelection", "select_sharded"),
    "slots": ("draw_variants", "in_slots", "slot_permutation"),
    "spec": ("Selection", "SelectionSpec"),
    "tower_files": ("write_tower",),
    "trace": ("gibbs_trace",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
