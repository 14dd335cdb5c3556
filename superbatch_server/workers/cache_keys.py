"""Cache keys: what an index or an embedding of a shard depends on, and nothing else."""

from __future__ import annotations

from hashlib import sha256

from superbatch_server.workers.index import IndexSpec


def index_cache_key(fingerprint: str, spec: IndexSpec) -> str:
    """Return sha256("superbatch-index-v1" 0x00 + shard fingerprint + digest of the index spec), 64 hex digits."""
    return sha256(b"superbatch-index-v1\0" + bytes.fromhex(fingerprint) + spec.digest()).hexdigest()


def embedding_cache_key(fingerprint: str, spec: IndexSpec, *, encoder: str, numerics: str) -> str:
    """Return the key of a shard's embeddings under one encoder and numerics profile, 64 hex digits.

    sha256("superbatch-embedding-v1" 0x00 + shard fingerprint + digest of the index spec + encoder digest + digest of
    the numerics profile), 32 bytes each.
    """
    parts = (bytes.fromhex(fingerprint), spec.digest(), bytes.fromhex(encoder), bytes.fromhex(numerics))
    return sha256(b"superbatch-embedding-v1\0" + b"".join(parts)).hexdigest()
