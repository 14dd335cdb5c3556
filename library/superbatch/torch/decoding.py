"""From rows to batches: the DataLoader that reads, transforms and joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch.utils.data import DataLoader

from superbatch.log import BatchLog, LogState
from superbatch.reading.addresses import Address
from superbatch.torch.collate import Collate, CuratedCollate
from superbatch.torch.dataset import ExampleDataset, RowReader, Transform
from superbatch.torch.iterable import CuratedIterableDataset
from superbatch.torch.opening import OpenLog
from superbatch.torch.readable import Item
from superbatch.torch.sampler import CuratedBatchSampler
from superbatch.torch.trained_log import TrainedLog
from superbatch.torch.workers import Workers

Roots = Mapping[str, Address]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the rows of a micro-step become a batch; the fields are those of CuratedLoader."""

    transform: Transform | Sequence[Transform]
    roots: Roots
    reader: Callable[[Roots], RowReader]
    collate_fn: Collate | None
    split_variants: bool

    def map_loader(
        self, trained_log: TrainedLog, workers: Workers, *, whole: bool, marks_unreadable: bool
    ) -> DataLoader[Item]:
        """Return a loader that asks for batches in this process and reads rows in the workers.

        Args:
            trained_log: the log.
            workers: worker processes.
            whole: hand out the rows of all ranks, for a framework that cuts them.
            marks_unreadable: hand out Unreadable marks instead of raising.
        """
        b = trained_log.log.manifest().policy.b
        sampler = CuratedBatchSampler(trained_log.window, share=trained_log.share, b=b, whole=whole)
        dataset = self._dataset(trained_log, marks_unreadable=marks_unreadable)
        return workers.map_loader(dataset, sampler, self._collate(trained_log.log))

    def iterable_loader(self, trained_log: TrainedLog, workers: Workers, open_log: OpenLog) -> DataLoader[Item]:
        """Return a loader whose workers follow the log themselves, from the first untrained batch on."""
        dataset = CuratedIterableDataset(
            partial(_open_at, open_log),
            self._dataset(trained_log, marks_unreadable=False),
            self._collate(trained_log.log),
            share=trained_log.share,
            state=trained_log.state(),
        )
        return workers.iterable_loader(dataset)

    def _dataset(self, trained_log: TrainedLog, *, marks_unreadable: bool) -> ExampleDataset:
        table = trained_log.log.shard_table()
        is_told = {shard.root for shard in table.shards} <= set(self.roots)  # a log below a prefix knows no roots
        return ExampleDataset(
            self.reader(self.roots if is_told else {**trained_log.log.roots(), **self.roots}),
            table,
            self.transform,
            share=trained_log.share,
            marks_unreadable=marks_unreadable,
        )

    def _collate(self, log: BatchLog) -> CuratedCollate:
        num_variants = max(1, len(log.manifest().policy.variants)) if self.split_variants else None
        return CuratedCollate(self.collate_fn, num_variants=num_variants)


def _open_at(open_log: OpenLog, state: LogState) -> BatchLog:
    return open_log(state=state, read_ahead=0)
