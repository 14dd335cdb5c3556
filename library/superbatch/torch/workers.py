"""How torch's DataLoader is set up: its worker processes, and how far ahead of the training they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch.utils.data import DataLoader

from superbatch.torch.collate import CuratedCollate
from superbatch.torch.dataset import ExampleDataset
from superbatch.torch.iterable import CuratedIterableDataset
from superbatch.torch.readable import Item
from superbatch.torch.sampler import CuratedBatchSampler

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Workers:
    """Worker processes of a loader, with the names of DataLoader.

    num_workers: 0 reads in the training process. prefetch_factor: micro-steps that wait for each worker.
    multiprocessing_context: "fork", "spawn" or "forkserver"; None for Python's default.
    persistent_workers: keep them between iterations. pin_memory: copy tensors into page-locked memory.
    """

    num_workers: int = 0
    prefetch_factor: int = 2
    multiprocessing_context: str | None = None
    persistent_workers: bool = False
    pin_memory: bool = False

    @property
    def items_ahead(self) -> int:
        """Micro-steps that DataLoader asks for ahead of the one it hands out, at most: W * (prefetch_factor + 1)."""
        return self.num_workers * (self.prefetch_factor + 1)

    def map_loader(
        self, dataset: ExampleDataset, sampler: CuratedBatchSampler, collate: CuratedCollate
    ) -> DataLoader[Item]:
        """Return a loader whose sampler runs here and whose dataset is read in the workers."""
        return DataLoader(
            dataset,  # type: ignore[arg-type] # of samples; the collate makes items of them
            batch_sampler=sampler,
            collate_fn=collate,  # type: ignore[arg-type] # of the dataset's own list
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
            persistent_workers=self.persistent_workers and self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def iterable_loader(self, dataset: CuratedIterableDataset) -> DataLoader[Item]:
        """Return a loader whose workers follow the log themselves."""
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
            pin_memory=self.pin_memory,
        )


def read_ahead_batches(items_ahead: int, *, accumulation: int = 1) -> int:
    """Return how many batches ahead of the one being trained a loader asks for, at most.

    The service refuses a registration under which it could not compose that far ahead. A number below the true one
    would let trainer and service wait for each other.

    Args:
        items_ahead: micro-steps ahead: those of DataLoader, and those that the framework takes before it trains them.
        accumulation: A, micro-steps per batch.
    Source: trainer-contract.md, Checkpoints of the learner, last line.
    """
    return -(-items_ahead // accumulation)
