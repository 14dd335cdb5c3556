"""Curated batches for PyTorch trainers: a loader for one rank, in the order of the log, resumable at any batch.

`CuratedLoader` is what a training loop uses. It is put together from parts that can be used alone: CuratedBatchSampler
and ExampleDataset (a torch map dataset), CuratedIterableDataset (a torch iterable dataset). Lightning's callback and
the HF Trainer stand in `superbatch.torch.lightning` and `superbatch.torch.transformers`.
"""

from superbatch.torch.collate import CuratedCollate
from superbatch.torch.dataset import ExampleDataset
from superbatch.torch.iterable import CuratedIterableDataset
from superbatch.torch.loader import CuratedLoader
from superbatch.torch.rows import BatchSlice, RowReference
from superbatch.torch.sampler import CuratedBatchSampler
from superbatch.torch.share import Share
from superbatch.torch.workers import Workers, read_ahead_batches

__all__ = [
    "BatchSlice",
    "CuratedBatchSampler",
    "CuratedCollate",
    "CuratedIterableDataset",
    "CuratedLoader",
    "ExampleDataset",
    "RowReference",
    "Share",
    "Workers",
    "read_ahead_batches",
]
