"""Selection inside a trainer that has the learner's embeddings at hand: no service, no checkpoint push, staleness 0.

    cache = ReferenceCache.open("reference-cache")
    index = select_batch(learner_embeddings, cache.take(uids), b=1638, seed=0, seq=step, uids=uids)

The same `superbatch.selection` that the service runs, so that the same inputs give the same batch. What it costs: the
trainer embeds every candidate itself, a forward of B rows per step.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from superbatch.inline.choosing import SelectionPolicy
    from superbatch.inline.exchange import exchange_rows
    from superbatch.inline.identities import index_uids
    from superbatch.inline.reference_cache import CachePart, MissingEmbeddings, ReferenceCache
    from superbatch.inline.selected import FlexiBatch, select_batch, select_flexi_batch
    from superbatch.selection.candidates import DualEmbeddings

__all__ = [
    "CachePart",
    "DualEmbeddings",
    "FlexiBatch",
    "MissingEmbeddings",
    "ReferenceCache",
    "SelectionPolicy",
    "exchange_rows",
    "index_uids",
    "select_batch",
    "select_flexi_batch",
]

_MODULE_OF = {
    "CachePart": "superbatch.inline.reference_cache",
    "DualEmbeddings": "superbatch.selection.candidates",
    "FlexiBatch": "superbatch.inline.selected",
    "MissingEmbeddings": "superbatch.inline.reference_cache",
    "ReferenceCache": "superbatch.inline.reference_cache",
    "SelectionPolicy": "superbatch.inline.choosing",
    "exchange_rows": "superbatch.inline.exchange",
    "index_uids": "superbatch.inline.identities",
    "select_batch": "superbatch.inline.selected",
    "select_flexi_batch": "superbatch.inline.selected",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
