"""Objects that an attempt leaves in the store: written once, visible to readers only by a row of the catalog."""

from __future__ import annotations

from hashlib import sha256

from superbatch_server.schemas.attempts import CacheEntry
from superbatch_server.storage.store import ArtifactStore


def put_named(store: ArtifactStore, stem: str, data: bytes, *, suffix: str = ".parquet") -> str:
    """Write `data` under stem + suffix and return the key.

    An earlier try of the same attempt may have left an object there. If it has other bytes (a smaller micro-batch), the
    new one gets its digest in its name: nothing is overwritten.
    """
    key = stem + suffix
    if store.put_new(key, data) or store.get(key) == data:
        return key
    return put_hashed(store, stem, data, suffix=suffix)


def put_hashed(store: ArtifactStore, stem: str, data: bytes, *, suffix: str = ".parquet") -> str:
    """Write `data` under a key that holds 16 digits of its sha256, and return the key."""
    key = f"{stem}-{sha256(data).hexdigest()[:16]}{suffix}"
    store.put_new(key, data)
    return key


def cache_entry(
    store: ArtifactStore, data: bytes, *, kind: str, cache_key: str, writer: str, rows: int, quarantined: dict[str, int]
) -> CacheEntry:
    """Write an index or embedding file of one attempt and return what describes it; the catalog decides who was first.

    Args:
        writer: "<job>-<token>".
    """
    object_key = put_named(store, f"cache/{kind}/{cache_key}/{writer}", data)
    return CacheEntry.model_validate(
        {
            "cache_key": cache_key,
            "kind": kind,
            "object_key": object_key,
            "bytes": len(data),
            "sha256": sha256(data).hexdigest(),
            "rows": rows,
            "quarantined": quarantined,
        }
    )
