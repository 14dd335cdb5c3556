"""Cache keys: what an index or an embedding of a shard depends on, and nothing else."""

from __future__ import annotations

from superbatch_server.storage.index_spec import embedding_cache_key, index_cache_key

__all__ = ["embedding_cache_key", "index_cache_key"]
