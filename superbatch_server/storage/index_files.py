"""Index files in the store: what they hold.

The index pass writes them; it and the service read them. One row per raw row of a shard, in order, so that a row's
place is its sample_index. A file says nothing about a dataset (shard_id, dataset_index, source label): the same shard
in another dataset shares it.
"""

from __future__ import annotations

import pyarrow as pa

from superbatch.formats.uid import UID_BYTES
from superbatch_server.storage.index_spec import IndexSpec, embedding_cache_key, index_cache_key

__all__ = ["INDEX_SCHEMA", "IndexSpec", "embedding_cache_key", "index_cache_key"]

INDEX_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("a_sha256", pa.binary(32), nullable=False),  # content identity of tower a
        pa.field("key", pa.string(), nullable=False),
        pa.field("sample_offset", pa.int64(), nullable=False),
        pa.field("sample_length", pa.int64(), nullable=False),
        pa.field("a_offset", pa.int64()),  # null: the sample has no such member
        pa.field("a_length", pa.int64()),
        pa.field("b_offset", pa.int64()),
        pa.field("b_length", pa.int64()),
        pa.field("caption", pa.string()),  # stripped; null where it is missing, empty or not UTF-8
        pa.field("width", pa.int32()),  # null where the picture cannot be decoded
        pa.field("height", pa.int32()),
        pa.field("verdict", pa.string(), nullable=False),  # "ok", or why the row is quarantined
    ]
)
