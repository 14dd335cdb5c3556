"""Embeddings in the service's store, as parts of a cache: found by the job's table, each object proven by its sha256.

Letters: n rows of a shard, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from superbatch.formats.embedding_shard import (
    OK,
    TABLE_NAME,
    EmbeddingEntry,
    EmbeddingShard,
    EmbeddingTable,
    StoredObject,
    read_embedding_shard,
    read_index_uids,
)
from superbatch.formats.errors import CorruptFile, DigestMismatch, InvalidInput
from superbatch.formats.uid import UID_BYTES
from superbatch.inline.cache_writer import CachePart
from superbatch.reading.addresses import Address, open_source
from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import RangeSource

_LARGEST_TABLE_BYTES = 1 << 30


def fetch_table(store: Address, *, job: str, history_id: str) -> tuple[EmbeddingTable, str]:
    """Return the table of a job's embeddings, and the sha256 of its bytes.

    Raises:
        InvalidInput: there is none.
        CorruptFile, UnsupportedVersion: it cannot be read.
        OSError: the store does not answer.
    """
    key = f"jobs/{job}/{history_id}/{TABLE_NAME}"
    with closing(open_source(store, root="store")) as source:
        try:
            text = source.read_tail(key, _LARGEST_TABLE_BYTES).parts[0]
        except FileNotFoundError as error:
            raise InvalidInput(
                f"the table of a job's embeddings is written when its embed pass is over; got none (store, key {key!r})"
                f". Wait for phase composing, and check that the job has a reference."
            ) from error
    table = EmbeddingTable.parse(text, where=key)
    if not table.shards:
        raise InvalidInput(f"a table of embeddings names at least one shard; got none (store, key {key!r}).")
    return table, sha256(text).hexdigest()


def parts_of_table(store: Address, table: EmbeddingTable) -> tuple[EmbeddingShard, Iterator[CachePart]]:
    """Return the first shard, which says the scale and bias of all, and the rows of all shards that have embeddings."""
    with closing(open_source(store, root="store")) as source:
        first = _embeddings(source, table.shards[0])
    return first, _parts(store, table, first)


def _parts(store: Address, table: EmbeddingTable, first: EmbeddingShard) -> Iterator[CachePart]:
    with closing(open_source(store, root="store")) as source:
        for entry in table.shards:
            shard = _embeddings(source, entry)
            if (shard.width, shard.logit_scale, shard.logit_bias) != (first.width, first.logit_scale, first.logit_bias):
                raise CorruptFile(
                    f"all shards have the embeddings of one model; shard {entry.shard_id} has width {shard.width}, "
                    f"scale {shard.logit_scale} and bias {shard.logit_bias}, the first one {first.width}, "
                    f"{first.logit_scale} and {first.logit_bias} (store, key {entry.embedding.key!r})."
                )
            yield _part(entry, shard, read_index_uids(_object(source, entry.index)))


def _part(entry: EmbeddingEntry, shard: EmbeddingShard, uids: pa.Array) -> CachePart:
    if not len(uids) == shard.rows.num_rows == entry.rows:
        raise CorruptFile(
            f"index and embeddings of a shard have {entry.rows} rows; got {len(uids)} and {shard.rows.num_rows} "
            f"(shard {entry.shard_id})."
        )
    kept = np.flatnonzero([verdict == OK for verdict in shard.rows.column("verdict").to_pylist()])
    image_nD, text_nD = (_tower(shard.rows.column(name), shard.width) for name in ("image", "text"))
    return CachePart(
        uids=_fixed_bytes(uids, UID_BYTES)[kept],
        image=image_nD[torch.from_numpy(kept)],
        text=text_nD[torch.from_numpy(kept)],
        dataset_index=entry.start_index + kept,
    )


def _tower(column: pa.Array, width: int) -> Tensor:
    return torch.from_numpy(_fixed_bytes(column, 2 * width).view("<f2"))


def _fixed_bytes(column: pa.Array, width: int) -> np.ndarray:
    """Return the values of a column of fixed-size binary as a copy, uint8 [n, width]."""
    if not len(column):
        return np.empty((0, width), dtype=np.uint8)
    start = column.offset * width
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=len(column) * width, offset=start)
    return flat.reshape(len(column), width).copy()


def _embeddings(source: RangeSource, entry: EmbeddingEntry) -> EmbeddingShard:
    return read_embedding_shard(_object(source, entry.embedding))


def _object(source: RangeSource, wanted: StoredObject) -> bytes:
    data = source.read_ranges(wanted.key, [ByteRange(0, wanted.bytes)]).parts[0]
    found = sha256(data).hexdigest()
    if found != wanted.sha256:
        raise DigestMismatch(
            f"an object of the store must have its recorded sha256; got {found} instead of {wanted.sha256} "
            f"(store, key {wanted.key!r}). Fetch the store's copy again."
        )
    return data
