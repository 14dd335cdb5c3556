"""Skipping unreadable batches as a whole, on all ranks together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from superbatch.formats.errors import SuperbatchError, UnreadableExample
from superbatch.torch.agreement import Agreement
from superbatch.torch.collate import Batch
from superbatch.torch.dataset import Unreadable
from superbatch.torch.trained_log import TrainedLog

Item = Batch | Unreadable | SuperbatchError
"""What torch's DataLoader hands out: a micro-step, or what stands in its place."""


def readable(
    items: Iterator[Item], trained_log: TrainedLog, *, agreement: Agreement, max_skipped: int
) -> Iterator[Batch]:
    """Yield the micro-steps of each batch that every rank can read; skip the others.

    A whole batch is held until all ranks have read it, because its first micro-step must not be trained if its second
    is unreadable.

    Args:
        items: the micro-steps of this rank in order.
        trained_log: where skipped batches are noted and reported.
        agreement: of all ranks.
        max_skipped: batches that may be skipped before this is taken for a fault of the set-up.
    Raises:
        UnreadableExample: more than max_skipped batches are unreadable.
    """
    num_skipped = 0
    while batch := list(islice(items, trained_log.share.accumulation)):
        unreadable = next((item for item in batch if isinstance(item, Unreadable)), None)
        reason = agreement.on_reason(None if unreadable is None else unreadable.reason)
        if reason is None:
            yield from map(readable_batch, batch)
            continue
        num_skipped += 1
        if num_skipped > max_skipped:
            raise UnreadableExample(
                f"at most {max_skipped} unreadable batches are skipped in one run; this is one more: {reason} "
                "Find out what is wrong with the shards or the transform, or raise skip_unreadable."
            )
        trained_log.skip_first(reason)


def readable_batch(item: Item) -> Batch:
    """Return a micro-step that was read, or raise what kept a worker from it.

    Where nothing is skipped, an unreadable row was an error in the worker.
    """
    if isinstance(item, SuperbatchError):
        raise item
    assert not isinstance(item, Unreadable)
    return item
