"""Embedding shards: the reference's embeddings of one shard of a data set, as the embed pass caches them.

The table of a job's embedding shards (`EmbeddingTable`) says which object of the store belongs to which shard, so that
a trainer that selects by itself finds them without the service.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pyarrow as pa

from superbatch.formats.canonical import JsonObject, JsonValue, canonical_json
from superbatch.formats.errors import CorruptFile
from superbatch.formats.json_fields import FORMAT_VERSION, JsonFields, as_fields
from superbatch.formats.parquet_file import ParquetSource, render_parquet
from superbatch.formats.uid import UID_BYTES

EMBEDDING_KIND = "embedding-shard"
INDEX_KIND = "index-shard"
OK = "ok"
"""The verdict of a row that has an embedding."""

TABLE_NAME = "reference-embeddings.json"
"""Name of the table below the job's prefix `jobs/<job>/<history_id>`."""

_WIDTH, _SCALE, _BIAS = "superbatch.width", "superbatch.logit_scale", "superbatch.logit_bias"
_ENCODER, _NUMERICS, _MICRO_BATCH = "superbatch.encoder", "superbatch.numerics", "superbatch.micro_batch"
_INDEX_COLUMNS = pa.schema([pa.field("uid", pa.binary(UID_BYTES), nullable=False)])


@dataclass(frozen=True, eq=False)
class EmbeddingShard:
    """Embeddings of one shard: columns image, text (little-endian fp16, width numbers each) and verdict, one per row.

    Rows whose verdict is not "ok" are zero.
    """

    rows: pa.RecordBatch
    width: int
    logit_scale: float
    logit_bias: float


def write_embedding_shard(shard: EmbeddingShard, *, encoder: str, numerics: str, micro_batch: int) -> bytes:
    """Return the file of a shard's embeddings.

    Args:
        shard: the embeddings of all raw rows of the shard, in order.
        encoder, numerics: digests, for people; the cache key says the same.
        micro_batch: the one in force when the shard was embedded.
    """
    metadata = {
        _WIDTH: str(shard.width),
        _SCALE: float(shard.logit_scale).hex(),
        _BIAS: float(shard.logit_bias).hex(),
        _ENCODER: encoder,
        _NUMERICS: numerics,
        _MICRO_BATCH: str(micro_batch),
    }
    table = pa.Table.from_batches([shard.rows])
    return render_parquet([table], embedding_schema(shard.width), file_kind=EMBEDDING_KIND, metadata=metadata)


def read_embedding_shard(source: bytes | str | os.PathLike[str]) -> EmbeddingShard:
    """Return what `write_embedding_shard` wrote.

    Raises:
        CorruptFile: not such a file, or damaged.
        UnsupportedVersion: another major version.
    """
    head = ParquetSource(source, pa.schema([]), file_kind=EMBEDDING_KIND)
    try:
        width, scale, bias = int(head.text(_WIDTH)), float.fromhex(head.text(_SCALE)), float.fromhex(head.text(_BIAS))
    except ValueError as error:
        raise CorruptFile(
            f"an embedding file states width, scale and bias; {error}. Delete it from the cache."
        ) from error
    rows = ParquetSource(source, embedding_schema(width), file_kind=EMBEDDING_KIND).read_group(0)
    return EmbeddingShard(rows, width, scale, bias)


def read_index_uids(source: bytes | str | os.PathLike[str]) -> pa.Array:
    """Return the uids in an index shard, one per raw row of the shard, in order.

    Raises: as `read_embedding_shard`.
    """
    return ParquetSource(source, _INDEX_COLUMNS, file_kind=INDEX_KIND).read_group(0).column("uid")


def embedding_schema(width: int) -> pa.Schema:
    """Return the columns of an embedding shard whose embeddings have `width` numbers."""
    return pa.schema(
        [
            pa.field("image", pa.binary(2 * width), nullable=False),
            pa.field("text", pa.binary(2 * width), nullable=False),
            pa.field("verdict", pa.string(), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One immutable object of the store."""

    key: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the object as a JSON object."""
        return {"key": self.key, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class EmbeddingEntry:
    """One shard of the data set: rows [start_index, start_index + rows), its index and its embeddings."""

    shard_id: int
    start_index: int
    rows: int
    index: StoredObject
    embedding: StoredObject

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry as a JSON object."""
        return {
            "shard_id": self.shard_id,
            "start_index": self.start_index,
            "rows": self.rows,
            "index": self.index.to_json(),
            "embedding": self.embedding.to_json(),
        }


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Where the reference embeddings of a job's data set lie in the store; written when the embed pass is over.

    reference_digest: of the reference model, or None, as in the manifest.
    shards: every shard of the data set, by shard_id.
    """

    job: str
    history_id: str
    dataset_fingerprint: str
    reference_digest: str | None
    shards: tuple[EmbeddingEntry, ...]

    def render(self) -> bytes:
        """Return the table as canonical JSON."""
        return canonical_json(
            {
                "format_version": FORMAT_VERSION,
                "job": self.job,
                "history_id": self.history_id,
                "dataset_fingerprint": self.dataset_fingerprint,
                "reference_digest": self.reference_digest,
                "shards": [shard.to_json() for shard in self.shards],
            }
        )

    @classmethod
    def parse(cls, source: JsonObject | bytes | str, *, where: str = TABLE_NAME) -> EmbeddingTable:
        """Return the table that `render` wrote; unknown keys are ignored.

        Raises:
            CorruptFile: not JSON, a field missing or of another type.
            UnsupportedVersion: another major version.
        """
        fields = as_fields(source, where=where)
        fields.check_version()
        return cls(
            job=fields.text("job"),
            history_id=fields.text("history_id"),
            dataset_fingerprint=fields.sha256_hex("dataset_fingerprint"),
            reference_digest=fields.optional_sha256_hex("reference_digest"),
            shards=tuple(_entry_from(shard) for shard in fields.objects("shards")),
        )


def _entry_from(fields: JsonFields) -> EmbeddingEntry:
    return EmbeddingEntry(
        shard_id=fields.integer("shard_id"),
        start_index=fields.integer("start_index"),
        rows=fields.integer("rows"),
        index=_object_from(fields.object("index")),
        embedding=_object_from(fields.object("embedding")),
    )


def _object_from(fields: JsonFields) -> StoredObject:
    return StoredObject(fields.text("key"), fields.integer("bytes"), fields.sha256_hex("sha256"))
