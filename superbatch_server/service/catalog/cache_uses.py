"""Which data sets and reference models a cache entry serves, and which entries serve none that is registered any more.

A use is noted when a driver looks an entry up or commits it, by content: the data set's fingerprint and, for
embeddings, the reference's digest. A data set that is deleted and registered again finds its entries still there, and
so does a new job. An entry without any noted use was made by a version that noted none; it counts as used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, exists, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from superbatch_server.schemas.attempts import CacheEntry
from superbatch_server.service.catalog.tables import cache, cache_uses, datasets, models

NO_MODEL = ""
_AT_ONCE = 500


def note_uses(connection: Connection, job: RowMapping, entries: Iterable[CacheEntry]) -> None:
    """Note that a job needs these entries; their rows must be locked against removal, or new."""
    fingerprint = connection.execute(
        select(datasets.c.fingerprint).where(datasets.c.id == job["dataset_id"])
    ).scalar_one_or_none()
    if fingerprint is None:  # nobody can register again what has none
        return
    digest = connection.execute(select(models.c.digest).where(models.c.id == job["reference_id"])).scalar_one_or_none()
    uses = [
        {
            "cache_key": entry.cache_key,
            "dataset_fingerprint": fingerprint,
            "model_digest": (digest or NO_MODEL) if entry.kind == "embedding" else NO_MODEL,
        }
        for entry in entries
    ]
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    for start in range(0, len(uses), _AT_ONCE):
        connection.execute(insert(cache_uses).values(uses[start : start + _AT_ONCE]).on_conflict_do_nothing())


def needed_entries(
    connection: Connection, cache_keys: Sequence[str], *, younger_than_ms: int, lock: bool = False
) -> tuple[dict[str, str], set[str]]:
    """Return the object of each committed entry among the keys, and which of the entries must stay.

    Args:
        younger_than_ms: an entry committed after this moment stays whatever its uses.
        lock: hold the rows, so that no driver finds an entry that is about to be removed.
    """
    rows = select(cache.c.cache_key, cache.c.object_key).where(cache.c.cache_key.in_(cache_keys))
    objects = {row.cache_key: row.object_key for row in connection.execute(rows.with_for_update() if lock else rows)}
    uses = cache_uses.c
    of_entry = uses.cache_key == cache.c.cache_key
    is_registered = exists(select(datasets.c.id).where(datasets.c.fingerprint == uses.dataset_fingerprint))
    has_model = or_(
        uses.model_digest == NO_MODEL, exists(select(models.c.id).where(models.c.digest == uses.model_digest))
    )
    needed = select(cache.c.cache_key).where(
        cache.c.cache_key.in_(objects),
        or_(
            cache.c.created_ms > younger_than_ms,
            ~exists(select(uses.cache_key).where(of_entry)),
            exists(select(uses.cache_key).where(of_entry, is_registered, has_model)),
        ),
    )
    return objects, set(connection.execute(needed).scalars())


def forget_entries(connection: Connection, cache_keys: Iterable[str]) -> None:
    """Remove entries from the catalog; their objects are garbage then."""
    connection.execute(delete(cache).where(cache.c.cache_key.in_(list(cache_keys))))
