"""The rows of one batch: columns of a batch list, and what makes b rows a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from superbatch.formats.digests import batch_digest
from superbatch.formats.errors import InvalidInput
from superbatch.formats.uid import UID_BYTES
from superbatch.formats.variants import positions_by_variant

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

BATCH_LIST_SCHEMA = pa.schema(
    [
        pa.field("batch_seq", pa.int64(), nullable=False),  # position of the batch in the job's log
        pa.field("slot", pa.int32(), nullable=False),  # position of the row in the batch, 0 .. b-1
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("dataset_index", pa.int64(), nullable=False),
        pa.field("shard_id", pa.int32(), nullable=False),  # indexes the shard table
        pa.field("sample_index", pa.int32(), nullable=False),  # position of the sample in its shard
        pa.field("key", pa.string()),  # tar: name of the sample
        pa.field("sample_offset", pa.int64()),  # tar: from the first header to the end of the last member's padding
        pa.field("sample_length", pa.int64()),
        pa.field("a_offset", pa.int64()),  # tar: content of tower a's member
        pa.field("a_length", pa.int64()),
        pa.field("b_offset", pa.int64()),
        pa.field("b_length", pa.int64()),
        pa.field("row_group", pa.int32()),  # Parquet
        pa.field("row_in_group", pa.int32()),
        pa.field("a_path", pa.string()),  # JSONL
        pa.field("b_path", pa.string()),
        pa.field("caption_index", pa.int16()),  # which of several captions of the sample
        pa.field("variant", pa.int8(), nullable=False),  # indexes manifest.policy.variants; 0 = full
        pa.field("chunk", pa.int16()),  # round of the joint selection, from 1
        pa.field("score", pa.float32()),  # s_i without noise when chosen
        pa.field("loss_learner", pa.float32()),  # own conditional loss within the final batch
        pa.field("loss_reference", pa.float32()),
    ]
)


def batch_rows(columns: Mapping[str, pa.Array | pa.ChunkedArray | Sequence[object]]) -> pa.Table:
    """Return a batch with every column of the format, from those that apply.

    Args:
        columns: values per column, all of the same length b; columns left out become null.
    Returns:
        A table of exactly BATCH_LIST_SCHEMA.
    Raises:
        InvalidInput: an unknown column, a required one missing or null, values that do not fit their type.
    """
    unknown = sorted(set(columns) - set(BATCH_LIST_SCHEMA.names))
    if unknown:
        raise InvalidInput(f"a batch list has fixed columns; got {unknown}. Drop them or see BATCH_LIST_SCHEMA.")
    num_rows = len(next(iter(columns.values()), ()))
    arrays = []
    for field in BATCH_LIST_SCHEMA:
        try:
            arrays.append(_column(columns.get(field.name), field.type, num_rows))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise InvalidInput(f"column {field.name} must be {field.type}; {error} (batch list).") from error
        if not field.nullable and arrays[-1].null_count:
            raise InvalidInput(f"column {field.name} must be given for every row; got {arrays[-1].null_count} nulls.")
    try:
        return pa.Table.from_arrays(arrays, schema=BATCH_LIST_SCHEMA)
    except pa.ArrowException as error:
        raise InvalidInput(f"all columns of a batch must have the same length; {error}.") from error


def digest_of_rows(rows: pa.Table | pa.RecordBatch, *, fingerprint: bytes) -> bytes:
    """Return the batch digest of one batch's rows.

    Args:
        rows: b rows with the columns batch_seq, uid and variant, in slot order.
        fingerprint: dataset fingerprint, 32 bytes.
    Returns:
        32 bytes, see superbatch.formats.digests.batch_digest.
    Raises:
        InvalidInput: no rows, or values that the digest cannot take.
    """
    seq = first_seq_of(rows)
    return batch_digest(fingerprint, seq, rows.column("uid").to_pylist(), rows.column("variant").to_pylist())


def first_seq_of(rows: pa.Table | pa.RecordBatch) -> int:
    """Return the seq in the first row of a batch.

    Raises:
        InvalidInput: no rows, or no seq.
    """
    seq = rows.column("batch_seq")[0].as_py() if rows.num_rows else None
    if not isinstance(seq, int) or seq < 0:
        raise InvalidInput(
            f"a batch has at least one row, each with its batch_seq >= 0; got {seq} in {rows.num_rows} rows."
        )
    return seq


def problem_of(rows: pa.Table | pa.RecordBatch, *, seq: int, b: int) -> str | None:
    """Return what is wrong with a batch in one clause, or None.

    Args:
        rows: columns of exactly BATCH_LIST_SCHEMA.
        seq: the seq that the batch must have.
        b: the number of rows that it must have.
    """
    for field in BATCH_LIST_SCHEMA:
        if not field.nullable and rows.column(field.name).null_count:
            return f"column {field.name} must not be null"
        if pa.types.is_floating(field.type) and pc.all(pc.is_finite(rows.column(field.name))).as_py() is False:
            return f"column {field.name} must be finite or null"
    if rows.num_rows != b:
        return f"every batch of a list has the same number of rows; got {rows.num_rows} instead of {b}"
    if rows.column("batch_seq").to_pylist() != [seq] * b:
        return f"all rows of this batch must have batch_seq {seq}"
    if rows.column("slot").to_pylist() != list(range(b)):
        return f"slots must be 0 .. {b - 1} in order"
    if min(rows.column("variant").to_pylist()) < 0:
        return "a variant must be at least 0"
    if pc.count_distinct(rows.column("uid")).as_py() != b:
        return "a uid must not be twice in one batch"
    return None


def _column(values: pa.Array | pa.ChunkedArray | Sequence[object] | None, type: pa.DataType, num_rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(num_rows, type)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(type) if isinstance(values, pa.Array) else pa.array(values, type=type)


def split_by_variant(rows: Rows, *, num_variants: int) -> list[Rows]:
    """Return the rows of each variant, in slot order: what a trainer hands to the model at one resolution.

    For a slice of b / (R * accumulation) slots that the service let through, each part has the same size on every rank
    and micro-step. A trainer concatenates the embeddings of the parts before the loss, so that the batch stays joint.

    Args:
        rows: a batch or a slice of it with the column `variant`.
        num_variants: len(manifest.policy.variants); 1 where that list is empty.
    Returns:
        num_variants tables or record batches of the type of `rows`; a part may be empty.
    Raises:
        InvalidInput: a row has a variant outside [0, num_variants).
    Cost: a copy of the rows; none where there is one variant.
    """
    positions = positions_by_variant(rows.column("variant").to_pylist(), num_variants=num_variants)
    if num_variants == 1:
        return [rows]
    return [rows.take(pa.array(part, type=pa.int64())) for part in positions]
