"""The rows of a batch list as the readers of shards take them, and what names a row in a message."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from superbatch.formats.errors import InvalidInput
from superbatch.formats.shards import ShardEntry, ShardTable


class Row(NamedTuple):
    """One row of a batch: the columns of the batch list that say what it is and where it lies."""

    uid: bytes
    dataset_index: int
    slot: int
    variant: int
    shard_id: int
    caption_index: int | None
    sample_offset: int | None
    sample_length: int | None
    a_offset: int | None
    a_length: int | None
    b_offset: int | None
    b_length: int | None
    row_group: int | None
    row_in_group: int | None
    a_path: str | None
    b_path: str | None


class Towers(NamedTuple):
    """The stored bytes of a row's towers, b"" where one is missing."""

    a: bytes
    b: bytes


class Place(NamedTuple):
    """An object that holds content of a row."""

    root: str
    key: str
    shard_id: int
    dataset_index: int

    def __str__(self) -> str:
        return f"row {self.dataset_index}, shard {self.shard_id}, {self.root}:{self.key}"


class Located(NamedTuple):
    """A row, the shard that holds it, and both as a place."""

    row: Row
    shard: ShardEntry
    place: Place

    def whole_number(self, column: str) -> int:
        """Return an integer that the format of the shard needs.

        Raises:
            InvalidInput: null stands there.
        """
        value = getattr(self.row, column)
        if value is None:
            raise InvalidInput(
                f"column {column} must be an integer here; got null ({self.place}, {self.shard.format}). "
                "Read the rows of a batch list of this dataset."
            )
        assert isinstance(value, int)
        return value


def located_rows(rows: pa.RecordBatch, table: ShardTable) -> list[Located]:
    """Return the rows of a batch, each with its shard, in order.

    Raises:
        InvalidInput: a shard that the table lacks.
    """
    columns = (rows.column(name).to_pylist() for name in Row._fields)
    return [_located(Row._make(values), table) for values in zip(*columns, strict=True)]


def _located(row: Row, table: ShardTable) -> Located:
    shard = _shard(table, row.shard_id)
    return Located(row, shard, Place(shard.root, shard.key, shard.shard_id, row.dataset_index))


def _shard(table: ShardTable, shard_id: int) -> ShardEntry:
    if not 0 <= shard_id < len(table.shards):
        raise InvalidInput(
            f"shard_id must be in [0, {len(table.shards)}); got {shard_id}. Use the shard table of the same dataset."
        )
    return table.shards[shard_id]
