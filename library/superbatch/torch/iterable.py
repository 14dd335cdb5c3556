"""A torch iterable dataset of ready local batches: each worker follows the log itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

from torch.utils.data import IterableDataset, get_worker_info

from superbatch.formats.errors import SuperbatchError
from superbatch.log import BatchLog, LogState
from superbatch.torch.collate import Batch, CuratedCollate
from superbatch.torch.dataset import ExampleDataset, Unreadable
from superbatch.torch.rows import references
from superbatch.torch.share import Share


class CuratedIterableDataset(IterableDataset[Batch | Unreadable | SuperbatchError]):
    """Yields the local batches of this rank, ready; give it to DataLoader with batch_size=None.

    torch takes one item from each worker in turn, so worker w of W yields items w, w + W, w + 2W, ... of the sequence
    of micro-steps, and the loader's order is that of the log. Every worker reads all batch lists, but only the examples
    of its own items. What keeps a worker from going on is its last item: raised there, torch would change its class.

    Args:
        open_log: opens the log at a state; picklable where workers are spawned, because it is called in them.
        examples: reads and transforms the rows of a micro-step.
        collate: joins them.
        share: rank, world size and accumulation.
        state: where to begin.
    """

    def __init__(
        self,
        open_log: Callable[[LogState], BatchLog],
        examples: ExampleDataset,
        collate: CuratedCollate,
        *,
        share: Share,
        state: LogState,
    ) -> None:
        self._open_log = open_log
        self._examples = examples
        self._collate = collate
        self._share = share
        self._state = state

    def __iter__(self) -> Iterator[Batch | Unreadable | SuperbatchError]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            yield from self._every(first, step)
        except SuperbatchError as error:
            yield error

    def _every(self, first: int, step: int) -> Iterator[Batch | Unreadable]:
        with closing(self._open_log(self._state)) as log:
            items = ((batch, micro) for batch in log for micro in range(self._share.accumulation))
            for batch, micro in islice(items, first, None, step):
                slots = self._share.slots(batch.rows.num_rows, micro)
                yield self._collate(self._examples.__getitems__(references(batch, slots, micro=micro)))
