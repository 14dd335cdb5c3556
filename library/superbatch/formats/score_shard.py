"""The score shard: one super-batch with what every candidate scored, so that any choice can be explained."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pyarrow as pa

from superbatch.formats.errors import InvalidInput
from superbatch.formats.parquet_file import FINGERPRINT_KEY, ParquetSource, render_parquet
from superbatch.formats.uid import UID_BYTES

FILE_KIND = "score-shard"
NOT_CHOSEN = -1

SCORE_SHARD_SCHEMA = pa.schema(
    [
        pa.field("batch_seq", pa.int64(), nullable=False),  # the batch that was selected from this super-batch
        pa.field("dataset_index", pa.int64(), nullable=False),
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("loss_learner", pa.float32()),  # before any is chosen: alone (sigmoid) or against the probe (softmax)
        pa.field("loss_reference", pa.float32()),
        pa.field("score", pa.float32()),  # s_i without noise, in the round of its choice or else in the last one
        pa.field("perturbed_score", pa.float32()),  # the same with noise; -inf = excluded by a rule
        pa.field("round", pa.int16(), nullable=False),  # from 1; NOT_CHOSEN = -1
    ]
)


@dataclass(frozen=True, slots=True)
class ScoreShard:
    """A score shard as read: dataset fingerprint (32 bytes), and the rows in the order of the super-batch."""

    fingerprint: bytes
    rows: pa.RecordBatch


def write_score_shard(rows: pa.Table | pa.RecordBatch, *, fingerprint: bytes) -> bytes:
    """Return the bytes of a score shard; the same rows always give the same bytes under one version of pyarrow.

    Args:
        rows: the candidates of one super-batch with the columns of SCORE_SHARD_SCHEMA, in any column order.
        fingerprint: dataset fingerprint, 32 bytes.
    Returns:
        A Parquet file with one row group.
    Raises:
        InvalidInput: a column missing or of a type that does not fit, a null where none may be, no 32-byte fingerprint.
    Source: design.md section 3.8.
    """
    if len(fingerprint) != 32:
        raise InvalidInput(
            f"a dataset fingerprint has 32 bytes; got {len(fingerprint)}. Pass raw bytes, not hexadecimal."
        )
    columns = []
    for field in SCORE_SHARD_SCHEMA:
        if rows.schema.get_field_index(field.name) < 0:
            raise InvalidInput(f"a score shard must have the column {field.name}; got {rows.schema.names}.")
        try:
            column = rows.column(field.name).cast(field.type)
        except pa.ArrowException as error:
            raise InvalidInput(f"column {field.name} must be {field.type}; {error} (score shard).") from error
        if not field.nullable and column.null_count:
            raise InvalidInput(f"column {field.name} must be given for every row; got {column.null_count} nulls.")
        columns.append(column)
    table = pa.Table.from_arrays(columns, schema=SCORE_SHARD_SCHEMA)
    return render_parquet(
        [table], SCORE_SHARD_SCHEMA, file_kind=FILE_KIND, metadata={FINGERPRINT_KEY: fingerprint.hex()}
    )


def read_score_shard(source: bytes | str | os.PathLike[str]) -> ScoreShard:
    """Return the score shard in a file that `write_score_shard` wrote; further columns are ignored.

    Args:
        source: the bytes of the file, or its path.
    Raises:
        CorruptFile: no Parquet file, another kind of file, a column missing or of another type, damaged pages.
        UnsupportedVersion: another major version.
        OSError: the path cannot be read.
    """
    parquet = ParquetSource(source, SCORE_SHARD_SCHEMA, file_kind=FILE_KIND)
    return ScoreShard(fingerprint=parquet.fingerprint(), rows=parquet.read_group(0))
