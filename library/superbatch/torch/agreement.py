"""What all ranks must know alike: who they are, which batches they step over, that one of them cannot read a batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

from torch import distributed

from superbatch.formats.errors import InvalidInput, SuperbatchError
from superbatch.torch.share import Share

_Found = TypeVar("_Found")


def own_share(rank: int | None, world_size: int | None, *, accumulation: int) -> Share:
    """Return the share of this process: the given rank, or that of torch's process group, or the only one.

    Args:
        rank, world_size: both, or neither.
        accumulation: micro-steps per optimizer step.
    Raises:
        InvalidInput: one of the two alone, numbers out of range, or several processes that know nothing of each other.
    """
    if (rank is None) != (world_size is None):
        raise InvalidInput(f"rank and world_size belong together; got {rank} and {world_size}. Give both or neither.")
    if rank is not None and world_size is not None:
        return Share(rank, world_size, accumulation)
    if not _has_process_group():
        check_started(1, "Call torch.distributed.init_process_group first, or give rank= and world_size=.")
    return Share(*_of_process_group(), accumulation)


def check_started(num_processes: int, remedy: str) -> None:
    """Refuse processes that the launcher started together and that do not know it: each would train alone.

    Args:
        num_processes: those that know of each other.
        remedy: what makes them know.
    Raises:
        InvalidInput: the launcher's WORLD_SIZE is another number.
    """
    started = os.environ.get("WORLD_SIZE", "")  # torchrun's word for how many it started, as torch itself reads it
    if started.isdecimal() and int(started) != num_processes:
        raise InvalidInput(
            f"the processes that a launcher starts must train together; got WORLD_SIZE={started} from the launcher "
            f"where this process knows of {num_processes}. {remedy}"
        )


class Agreement:
    """Lets all ranks decide alike; each of them calls the same methods in the same order.

    It uses a gloo group of its own, so it neither waits for nor delays a GPU stream.

    Args:
        share: rank and world size, which must be those of torch's process group.
    Raises:
        InvalidInput: several ranks without a process group of exactly them.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self._group: distributed.ProcessGroup | None = None
        if share.world_size == 1:
            return
        if (share.rank, share.world_size) != _of_process_group():
            raise InvalidInput(
                "ranks skip a batch together through torch's process group, whose ranks must be those of the data; got "
                f"rank {share.rank} of {share.world_size} where the group has {_of_process_group()}. "
                "Call init_process_group first, or leave skip_unreadable at 0."
            )
        self._group = distributed.new_group(backend="gloo")

    def on_reason(self, reason: str | None) -> str | None:
        """Return the reason that any rank gave, that of the lowest one; None where none did."""
        if self._group is None:
            return reason
        reasons: list[str | None] = [None] * self._share.world_size
        distributed.all_gather_object(reasons, reason, group=self._group)
        return next((each for each in reasons if each is not None), None)

    def of_rank_0(self, find: Callable[[], _Found]) -> _Found:
        """Return what `find` gives on rank 0, which alone calls it; its error is raised on every rank."""
        if self._group is None:
            return find()
        found: list[object] = [None]
        if self._share.rank == 0:
            try:
                found[0] = find()
            except SuperbatchError as error:
                found[0] = error
        distributed.broadcast_object_list(found, src=0, group=self._group)
        if isinstance(found[0], SuperbatchError):
            raise found[0]
        return cast("_Found", found[0])


def _has_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _of_process_group() -> tuple[int, int]:
    return (distributed.get_rank(), distributed.get_world_size()) if _has_process_group() else (0, 1)
