"""What all ranks must know alike: who they are, and that a batch is unreadable for one of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import distributed

from superbatch.formats.errors import InvalidInput
from superbatch.torch.share import Share

Agree = Callable[[str | None], str | None]


def own_share(rank: int | None, world_size: int | None, *, accumulation: int) -> Share:
    """Return the share of this process: the given rank, or that of torch's process group, or the only one.

    Args:
        rank, world_size: both, or neither.
        accumulation: micro-steps per optimizer step.
    Raises:
        InvalidInput: one of the two alone, or numbers out of range.
    """
    if (rank is None) != (world_size is None):
        raise InvalidInput(f"rank and world_size belong together; got {rank} and {world_size}. Give both or neither.")
    if rank is not None and world_size is not None:
        return Share(rank, world_size, accumulation)
    return Share(*_of_process_group(), accumulation)


def agreement(share: Share) -> Agree:
    """Return a function that all ranks call once per batch: it returns the reason that any of them gave, or None.

    The lowest rank's reason counts. It uses a gloo group of its own, so it neither waits for nor delays a GPU stream.

    Raises:
        InvalidInput: several ranks without a process group of exactly them.
    """
    if share.world_size == 1:
        return lambda reason: reason
    if (share.rank, share.world_size) != _of_process_group():
        raise InvalidInput(
            "ranks skip a batch together through torch's process group, whose ranks must be those of the data; got "
            f"rank {share.rank} of {share.world_size} where the group has {_of_process_group()}. "
            "Call init_process_group first, or leave skip_unreadable at 0."
        )
    group = distributed.new_group(backend="gloo")

    def agree(reason: str | None) -> str | None:
        reasons: list[str | None] = [None] * share.world_size
        distributed.all_gather_object(reasons, reason, group=group)
        return next((each for each in reasons if each is not None), None)

    return agree


def _of_process_group() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
