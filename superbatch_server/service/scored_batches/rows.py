"""Rows of a data set as its shards and their index files describe them: source, place, caption.

Letters: S shards of the data set, n rows of one shard.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Connection, select

from superbatch.formats.embedding_shard import INDEX_KIND
from superbatch.formats.errors import SuperbatchError
from superbatch.formats.parquet_file import ParquetSource
from superbatch_server.service.catalog.tables import cache, dataset_shards
from superbatch_server.service.scored_batches.bounded_cache import BoundedCache
from superbatch_server.service.scored_batches.row_places import CAPTION_CHARS, RowPlace, ShardPlace
from superbatch_server.storage.index_files import INDEX_SCHEMA
from superbatch_server.storage.index_spec import IndexSpec, index_cache_key
from superbatch_server.storage.store import ArtifactStore

CACHE_BYTES = 64 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_CAPTION_BYTES = 64 << 20
"""Captions of one shard, unpacked; beyond it they are left out, and read from the shard where one is shown."""

MAX_READERS = 2
"""Index files unpacked at the same time."""

_PLACES = pa.schema([field for field in INDEX_SCHEMA if field.name != "caption"])


class ShardList:
    """The shards of a READY data set, which never change, in the order of their first rows."""

    def __init__(self, shards: Iterable[ShardPlace]) -> None:
        self._shards = sorted((shard for shard in shards if shard.rows), key=lambda shard: shard.start_index)
        self._starts = [shard.start_index for shard in self._shards]

    @property
    def num_bytes(self) -> int:
        """Memory, roughly."""
        return 400 * len(self._shards)

    def find(self, dataset_index: int) -> ShardPlace | None:
        """Return the shard of a row, None where the data set has no such row."""
        at = bisect_right(self._starts, dataset_index) - 1
        if at < 0 or dataset_index >= self._starts[at] + self._shards[at].rows:
            return None
        return self._shards[at]


@dataclass(frozen=True, eq=False)
class _Index:
    places: pa.RecordBatch
    captions: pa.Array | None
    """Dictionary-encoded."""

    @property
    def num_bytes(self) -> int:
        return int(self.places.nbytes + (self.captions.nbytes if self.captions is not None else 0))


class RowDirectory:
    """Finds rows by dataset_index. Shard lists and index files used last stay in memory."""

    def __init__(self) -> None:
        self._shards: BoundedCache[ShardList] = BoundedCache(max_bytes=CACHE_BYTES)
        self._indexes: BoundedCache[_Index | None] = BoundedCache(max_bytes=CACHE_BYTES)
        self._readers = threading.BoundedSemaphore(MAX_READERS)

    def shards(self, connection: Connection, dataset_id: str) -> ShardList:
        """Return the shards of a READY data set."""
        return self._shards.get(dataset_id, lambda: _read_shards(connection, dataset_id), lambda all_: all_.num_bytes)

    def describe(
        self, connection: Connection, store: ArtifactStore, dataset_id: str, indexes: Iterable[int]
    ) -> dict[int, RowPlace]:
        """Return the rows that the data set has, by dataset_index.

        Cost: one index file per shard that the rows lie in; give neighbours together.
        """
        shards = self.shards(connection, dataset_id)
        found: dict[int, RowPlace] = {}
        for dataset_index in sorted(set(indexes)):
            shard = shards.find(dataset_index)
            if shard is not None:
                found[dataset_index] = _row(dataset_index, shard, self._index(connection, store, shard))
        return found

    def _index(self, connection: Connection, store: ArtifactStore, shard: ShardPlace) -> _Index | None:
        if shard.fingerprint is None:
            return None
        key = index_cache_key(shard.fingerprint, IndexSpec())
        object_key = connection.execute(select(cache.c.object_key).where(cache.c.cache_key == key)).scalar_one_or_none()
        if object_key is None:
            return None

        def load() -> _Index | None:
            with self._readers:
                return _read_index(store, object_key)

        # What cannot be read is not kept: it may come back.
        return self._indexes.get(object_key, load, lambda index: index.num_bytes if index else CACHE_BYTES + 1)


def _read_shards(connection: Connection, dataset_id: str) -> ShardList:
    query = select(dataset_shards).where(dataset_shards.c.dataset_id == dataset_id)
    return ShardList(
        ShardPlace(row["key"], row["source"], row["start_index"] or 0, row["rows"] or 0, row["fingerprint"])
        for row in connection.execute(query).mappings()
    )


def _read_index(store: ArtifactStore, object_key: str) -> _Index | None:
    """Return an index file; None for one that is missing, damaged or too large: a page then shows less."""
    try:
        if store.size(object_key) > MAX_INDEX_BYTES:
            return None
        data = store.get(object_key)
        places = ParquetSource(data, _PLACES, file_kind=INDEX_KIND).read_group(0)
        return _Index(places, read_captions(data, max_bytes=MAX_CAPTION_BYTES))
    except (SuperbatchError, OSError):
        return None


def read_captions(data: bytes, *, max_bytes: int) -> pa.Array | None:
    """Return the captions of an index file, each cut; None where they take more than `max_bytes` unpacked."""
    group = pq.read_metadata(BytesIO(data)).row_group(0)
    sizes = {group.column(i).path_in_schema: group.column(i).total_uncompressed_size for i in range(group.num_columns)}
    if sizes["caption"] > max_bytes:
        return None
    # As a dictionary: ten thousand rows may share one caption of a megabyte.
    file = pq.ParquetFile(BytesIO(data), read_dictionary=["caption"], page_checksum_verification=True)
    column = file.read_row_group(0, columns=["caption"], use_threads=False).column("caption")
    cut = [
        pa.DictionaryArray.from_arrays(part.indices, pc.utf8_slice_codeunits(part.dictionary, 0, CAPTION_CHARS))
        for part in column.chunks
    ]
    return pa.chunked_array(cut, type=pa.dictionary(pa.int32(), pa.string())).unify_dictionaries().combine_chunks()


def _row(dataset_index: int, shard: ShardPlace, index: _Index | None) -> RowPlace:
    at = dataset_index - shard.start_index
    if index is None or at >= index.places.num_rows:
        return RowPlace(dataset_index, shard, is_indexed=False)
    said = {name: index.places.column(name)[at].as_py() for name in _SHOWN}
    caption = index.captions[at].as_py() if index.captions is not None else None
    return RowPlace(dataset_index, shard, is_indexed=True, caption=caption, **said)


_SHOWN = ("key", "verdict", "a_sha256", "a_offset", "a_length", "b_offset", "b_length")
