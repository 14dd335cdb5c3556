"""A torch batch sampler that asks the log for batches and hands out references to their rows."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from superbatch.torch.rows import RowReference, references
from superbatch.torch.share import Share
from superbatch.torch.window import BatchWindow


class CuratedBatchSampler(Sampler[list[RowReference]]):
    """Yields one list of row references per micro-step, in the order of the log; runs in the training process.

    It blocks until the next batch is composed. Its length is not known. Each iteration begins at the first micro-step
    of the first untrained batch.

    Args:
        window: the batches.
        share: rank, world size and accumulation.
        b: rows of a batch.
        whole: hand out the rows of all ranks, that of rank 0 first, for a framework that cuts each list into equal
            consecutive parts itself (accelerate with split_batches=True); else those of this rank alone.
    Raises:
        InvalidInput: b is not divisible by world_size * accumulation.
    """

    def __init__(self, window: BatchWindow, *, share: Share, b: int, whole: bool = False) -> None:
        self._window = window
        self._share = share
        self._whole = whole
        own = len(share.slots(b, 0))
        self.batch_size = own * share.world_size if whole else own
        """Rows of each list; accelerate asks for it."""
        self.drop_last = True
        """All lists are of this length; accelerate must not fill up a last one."""

    def __iter__(self) -> Iterator[list[RowReference]]:
        seq = 0
        while (batch := self._window.from_seq(seq)) is not None:
            b = batch.rows.num_rows
            for micro in range(self._share.accumulation):
                slots = self._share.slots_of_all(b, micro) if self._whole else self._share.slots(b, micro)
                yield references(batch, slots, micro=micro)
            seq = batch.seq + 1
