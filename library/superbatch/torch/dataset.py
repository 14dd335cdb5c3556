"""A torch map dataset that reads the rows of a micro-step by few joined reads, in whichever process asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import pyarrow as pa
from torch.utils.data import Dataset

from superbatch.formats.errors import InvalidInput, UnreadableExample
from superbatch.formats.shards import ShardTable
from superbatch.reading import Example
from superbatch.torch.rows import BatchSlice, RowReference, rows_of
from superbatch.torch.share import Share

Sample = Mapping[str, object]
Transform = Callable[[Example], Sample]


class RowReader(Protocol):
    """Reads rows of batch lists; `superbatch.reading.ExampleReader` does.

    The law: one example per row, in the order of the rows, or an error; it may be pickled and may cross a fork.
    """

    def read_rows(self, rows: pa.RecordBatch, shard_table: ShardTable) -> list[Example]:
        """Return the examples of some rows."""
        ...


class Samples(list[Sample]):
    """The samples of one micro-step in slot order, with the variant of each and what they are."""

    def __init__(self, samples: Sequence[Sample], variants: Sequence[int], source: BatchSlice) -> None:
        super().__init__(samples)
        self.variants = tuple(variants)
        self.source = source


class Unreadable:
    """Stands for a micro-step that holds an unreadable row, where whole batches may be skipped."""

    __slots__ = ("reason", "seq")

    def __init__(self, seq: int, reason: str) -> None:
        self.seq, self.reason = seq, reason


class ExampleDataset(Dataset[Sample]):
    """Reads and transforms the rows that a CuratedBatchSampler refers to.

    It refuses rows that are not exactly those of this rank's micro-step: a framework that shuffles, or that gives whole
    batches to single ranks, is found out at the first batch.

    Args:
        reader: reads the rows.
        shard_table: where the shards of the dataset are.
        transform: decodes an example into a dict; one for all, or one per variant.
        share: rank, world size and accumulation.
        marks_unreadable: return an Unreadable mark instead of raising UnreadableExample.
    """

    def __init__(
        self,
        reader: RowReader,
        shard_table: ShardTable,
        transform: Transform | Sequence[Transform],
        *,
        share: Share,
        marks_unreadable: bool = False,
    ) -> None:
        self._reader = reader
        self._shard_table = shard_table
        self._transform = transform
        self._share = share
        self._marks_unreadable = marks_unreadable

    def __getitem__(self, index: RowReference) -> Sample:
        raise InvalidInput(
            "rows are read by whole micro-steps, so that no rank can get others than its own; got a single row. "
            "Give the CuratedBatchSampler to DataLoader as batch_sampler=, not as sampler=."
        )

    def __getitems__(self, found: Sequence[RowReference]) -> Samples | Unreadable:
        """Return the samples of a micro-step, in slot order.

        Raises:
            InvalidInput: rows of another rank, of several batches or out of order; a transform that returns no dict.
            UnreadableExample: a row could not be read or transformed; it is named.
        """
        check_rows(found, self._share)
        try:
            examples = self._reader.read_rows(rows_of(found), self._shard_table)
            samples = [self._sample(example, found[0].seq) for example in examples]
        except UnreadableExample as error:
            if not self._marks_unreadable:
                raise
            return Unreadable(found[0].seq, str(error))
        source = BatchSlice(found[0].seq, found[0].micro, tuple(example.uid for example in examples))
        return Samples(samples, [example.variant for example in examples], source)

    def _sample(self, example: Example, seq: int) -> Sample:
        try:
            sample = self._transform_of(example.variant)(example)
        except Exception as error:  # whatever a decoder raises, the row must be named
            shard = self._shard_table.shard_of(example.dataset_index)
            raise UnreadableExample(
                f"published rows must stay readable; {error!r} (batch {seq}, slot {example.slot}, "
                f"row {example.dataset_index}, uid {example.uid.hex()}, shard {shard.root}:{shard.key}). "
                "Restore the shard, mend the transform, or exclude the row; no row was dropped."
            ) from error
        if not isinstance(sample, Mapping):
            raise InvalidInput(
                f"a transform must return a dict; got {type(sample).__name__}. Give each of its parts a name."
            )
        return sample

    def _transform_of(self, variant: int) -> Transform:
        return self._transform if callable(self._transform) else self._transform[variant]


def check_rows(found: Sequence[RowReference], share: Share) -> None:
    """Refuse rows that are not exactly those of one micro-step of one rank, in slot order.

    Raises:
        InvalidInput: they are not.
    """
    first = found[0]
    wanted = list(share.slots(first.b, first.micro))
    slots = [reference.slot for reference in found]
    if slots != wanted or any(each[:3] != first[:3] for each in found):
        seqs = sorted({reference.seq for reference in found})
        raise InvalidInput(
            f"rank {share.rank} of {share.world_size} trains slots {wanted[0]} to {wanted[-1]} of a batch of {first.b} "
            f"(micro-step {first.micro}); got {len(slots)} slots from {slots[0]} to {slots[-1]} of batch "
            f"{', '.join(map(str, seqs))}. The framework cut the batches otherwise: with accelerate and HF Trainer set "
            "split_batches=True and dispatch_batches=False, with Lightning use_distributed_sampler=False."
        )
