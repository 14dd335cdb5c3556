"""Which shards of a job's data set are indexed and embedded: what the cache has, looked up by cache key."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.datasets import DatasetManifest
from superbatch_server.service.catalog.tables import cache, dataset_shards, datasets, events
from superbatch_server.storage.index_spec import IndexSpec, embedding_cache_key, index_cache_key

MAX_CELLS = 240
MAX_LOOKED_UP = 20_000
"""Shards up to which the cache is asked; a larger data set is shown by its counters only."""
LOOKUP_KEYS = 500


@dataclass(frozen=True, slots=True)
class Cell:
    """Shards [start, stop): how many of them are indexed, and embedded."""

    start: int
    stop: int
    indexed: int
    embedded: int
    label: str

    @property
    def level(self) -> int:
        """0 nothing, 1 to 3 partly, 4 all that is wanted."""
        return math.ceil(3.99 * self.embedded / (self.stop - self.start)) if self.embedded else 0


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """The picture of a data set's shards."""

    finding: str
    cells: list[Cell]
    num_shards: int
    num_done: int
    note: str


@dataclass(frozen=True, slots=True)
class PassKeys:
    """Cache keys of a job's index and embedding files, by shard; an embedding's is None where it is not known."""

    index: list[str]
    embedding: list[str | None]


def read_shard_progress(connection: Connection, job: RowMapping) -> ShardProgress | None:
    """Return which shards are done; None while the data set has none that could be asked for."""
    shards = list_shards(connection, job["dataset_id"])
    if not shards or len(shards) > MAX_LOOKED_UP:
        return None
    wants_embedding = job["reference_id"] is not None
    keys = pass_keys(connection, job, shards)
    wanted = {key for key in [*keys.index, *keys.embedding] if key}
    known = set(find_entries(connection, sorted(wanted)))
    indexed = [key in known for key in keys.index]
    embedded = [key in known for key in keys.embedding] if wants_embedding else indexed
    return _progress(shards, indexed, embedded, wants_embedding=wants_embedding)


def list_shards(connection: Connection, dataset_id: str) -> list[RowMapping]:
    """Return the shards of a data set, in order, once their fingerprints are known."""
    query = select(dataset_shards).where(dataset_shards.c.dataset_id == dataset_id).order_by(dataset_shards.c.shard_id)
    return list(connection.execute(query.limit(MAX_LOOKED_UP + 1)).mappings())


def pass_keys(connection: Connection, job: RowMapping, shards: Sequence[RowMapping]) -> PassKeys:
    """Return under which keys the cache has what the job's pass made, or used."""
    manifest = connection.execute(select(datasets.c.manifest).where(datasets.c.id == job["dataset_id"])).scalar_one()
    spec = IndexSpec(caption_suffix=DatasetManifest.model_validate_json(manifest).caption_field)
    fingerprints = [shard["fingerprint"] for shard in shards]
    planned = _planned(connection, job["id"])
    return PassKeys(
        index=[index_cache_key(each, spec) if each else "" for each in fingerprints],
        embedding=[_embedding_key(each, spec, planned) for each in fingerprints],
    )


def find_entries(connection: Connection, cache_keys: Sequence[str]) -> dict[str, RowMapping]:
    """Return the committed entries of the cache among the keys."""
    found: dict[str, RowMapping] = {}
    for first in range(0, len(cache_keys), LOOKUP_KEYS):
        query = select(cache).where(cache.c.cache_key.in_(cache_keys[first : first + LOOKUP_KEYS]))
        found.update({row["cache_key"]: row for row in connection.execute(query).mappings()})
    return found


def _planned(connection: Connection, job_id: str) -> tuple[str, str] | None:
    """Return encoder and numerics digest that the newest attempt which planned a pass told."""
    query = select(events.c.fields).where(events.c.job_id == job_id, events.c.kind == "pass_planned")
    text = connection.execute(query.order_by(events.c.id.desc()).limit(1)).scalar_one_or_none()
    fields = json.loads(text) if text else {}
    return (fields["encoder"], fields["numerics"]) if fields.get("encoder") and fields.get("numerics") else None


def _embedding_key(fingerprint: str | None, spec: IndexSpec, planned: tuple[str, str] | None) -> str | None:
    if not fingerprint or planned is None:
        return None
    return embedding_cache_key(fingerprint, spec, encoder=planned[0], numerics=planned[1])


def _progress(
    shards: Sequence[RowMapping], indexed: Sequence[bool], embedded: Sequence[bool], *, wants_embedding: bool
) -> ShardProgress:
    per_cell = max(1, math.ceil(len(shards) / MAX_CELLS))
    cells = []
    for start in range(0, len(shards), per_cell):
        stop = min(start + per_cell, len(shards))
        num_indexed, num_embedded = sum(indexed[start:stop]), sum(embedded[start:stop])
        name = f"shard {start}" if per_cell == 1 else f"shards {start} to {stop - 1}"
        said = f"{num_indexed} of {stop - start} indexed" + (f", {num_embedded} embedded" if wants_embedding else "")
        cells.append(Cell(start, stop, num_indexed, num_embedded, f"{name}: {said}"))
    done = "indexed and embedded" if wants_embedding else "indexed"
    many = "" if per_cell == 1 else f"One square is {per_cell:,} shards."
    finding = f"{sum(embedded):,} of {len(shards):,} shards are {done}"
    return ShardProgress(finding, cells, len(shards), sum(embedded), many)
