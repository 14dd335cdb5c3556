"""Writes the tars of a job, one batch after the other; what is there already is not read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from superbatch.formats.errors import InvalidInput
from superbatch.formats.shards import ShardTable
from superbatch.log import LogBatch
from superbatch.reading import Example
from superbatch.webdataset.tar_folder import TarFolder
from superbatch.webdataset.tar_writer import write_tar

ReadRows = Callable[[pa.RecordBatch], Sequence[Example]]


@dataclass(frozen=True, slots=True)
class ExportedBatch:
    """One batch that is in the folder now: tars written by this call, and their bytes."""

    seq: int
    num_written: int
    num_bytes: int


def export_tars(batches: Iterable[LogBatch], read_rows: ReadRows, folder: TarFolder) -> Iterator[ExportedBatch]:
    """Write the tars of each batch and yield what was done; an interrupted export may simply be repeated.

    The same log gives the same bytes, whoever writes them and however often it was interrupted.

    Args:
        batches: of one job, as BatchLog hands them out.
        read_rows: returns the examples of some rows of a batch list, all of them, in their order.
        folder: where the tars go.
    Raises:
        InvalidInput: a batch of another size than the layout's.
        UnreadableExample: a row could not be read, or has a picture that stock readers drop.
        OSError: the folder cannot be written.
    Cost: memory: the examples of one batch. Each row is read once, unless its tar is there.
    """
    for batch in batches:
        yield _export_batch(batch, read_rows, folder)
    folder.write_sizes()


def check_image_text(table: ShardTable) -> None:
    """Refuse a dataset that is no image-text set, which is all that these tars can hold.

    Raises:
        InvalidInput: another kind of tower.
    """
    if (table.kind_a, table.kind_b) != ("image", "text"):
        raise InvalidInput(
            f"WebDataset tars hold a picture and a caption per row; got {table.kind_a} and {table.kind_b}. "
            "Read this job with superbatch.torch."
        )


def _export_batch(batch: LogBatch, read_rows: ReadRows, folder: TarFolder) -> ExportedBatch:
    layout, seq = folder.layout, batch.seq
    if batch.rows.num_rows != layout.b:
        raise InvalidInput(f"every batch must have {layout.b} rows; got {batch.rows.num_rows} (batch {seq}).")
    missing = [index for index in layout.tar_indices(seq, seq + 1) if not folder.has(index)]
    if not missing:
        return ExportedBatch(seq, 0, 0)
    examples = read_rows(batch.rows)
    num_bytes = 0
    for index in missing:
        slots = layout.part_of(index).slots
        part = examples[slots.start : slots.stop]
        write = partial(write_tar, examples=part, seq=seq, with_metadata=folder.origin.with_metadata)
        num_bytes += folder.put(index, write)
    return ExportedBatch(seq, len(missing), num_bytes)
