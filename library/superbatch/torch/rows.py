"""References to rows of a batch that travel from the sampler to the workers, and the mark that a batch carries back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from superbatch.formats.batch_list import BATCH_LIST_SCHEMA
from superbatch.log import LogBatch

Value = int | float | str | bytes | None

SLICE_KEY = "superbatch"
"""The key under which a batch, which is a dict, carries its BatchSlice."""


class RowReference(NamedTuple):
    """One row of one micro-step: all that a worker needs to read it; about 200 bytes when pickled.

    seq: position of its batch. b: rows of that batch. micro: micro-step that trains it. slot: its place in the batch.
    values: those of the columns of BATCH_LIST_SCHEMA.
    """

    seq: int
    b: int
    micro: int
    slot: int
    values: tuple[Value, ...]


class BatchSlice:
    """Which rows a local batch holds: proof of what was trained, in the batch itself.

    It is no tensor, so nothing moves it to a device, and no tuple or dataclass, so nothing takes it apart.

    seq: position of the batch in the log. micro: micro-step, from 0. uids: uid per row, 16 bytes each, in slot order.
    """

    __slots__ = ("micro", "seq", "uids")

    def __init__(self, seq: int, micro: int, uids: tuple[bytes, ...]) -> None:
        self.seq, self.micro, self.uids = seq, micro, uids

    def __repr__(self) -> str:
        return f"BatchSlice(seq={self.seq}, micro={self.micro}, {len(self.uids)} rows)"


def references(batch: LogBatch, slots: Sequence[int], *, micro: int) -> list[RowReference]:
    """Return references to the rows in some slots of a batch, in the order of `slots`.

    Args:
        batch: a batch of the log.
        slots: places in the batch.
        micro: the micro-step that trains them.
    """
    rows = batch.rows.take(pa.array(slots, type=pa.int64()))
    values = zip(*(rows.column(name).to_pylist() for name in BATCH_LIST_SCHEMA.names), strict=True)
    b = batch.rows.num_rows
    return [RowReference(batch.seq, b, micro, slot, each) for slot, each in zip(slots, values, strict=True)]


def rows_of(found: Sequence[RowReference]) -> pa.RecordBatch:
    """Return the rows that references stand for, with the columns of a batch list, in their order."""
    columns = zip(*(reference.values for reference in found), strict=True)
    arrays = [pa.array(values, type=field.type) for field, values in zip(BATCH_LIST_SCHEMA, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=BATCH_LIST_SCHEMA)
