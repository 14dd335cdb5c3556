"""Which slots of a batch belong to which rank: one pure function, no state per rank."""

from __future__ import annotations

from superbatch.formats.errors import InvalidInput

SLICE_RULE = "contiguous"
"""The name that a manifest gives to the rule of this module."""


def slot_range(b: int, rank: int, *, world_size: int, accumulation: int = 1, micro: int | None = None) -> range:
    """Return the slots of a batch that one rank trains on, in order.

    Rank r of R owns slots [r*b/R, (r+1)*b/R). With accumulation A, micro-step m of that rank is the m-th of A equal,
    consecutive parts: [(r*A + m)*b/(R*A), (r*A + m + 1)*b/(R*A)). The union over ranks and micro-steps is the batch.

    Args:
        b: rows of the batch over all ranks.
        rank: r, in [0, world_size).
        world_size: R, number of ranks.
        accumulation: A, micro-steps per optimizer step.
        micro: m, in [0, accumulation); None for the rank's whole share.
    Returns:
        A half-open range of slots with step 1.
    Raises:
        InvalidInput: b is not divisible by world_size * accumulation, or a position is out of range.
    Source: trainer-contract.md, Slot order.
    """
    if b < 1 or world_size < 1 or accumulation < 1:
        raise InvalidInput(
            f"b, world_size and accumulation must be at least 1; got {b}, {world_size}, {accumulation}. "
            "Check the launcher."
        )
    if b % (world_size * accumulation):
        raise InvalidInput(
            f"b must be divisible by world_size * accumulation; got b = {b}, {world_size} * {accumulation} = "
            f"{world_size * accumulation}, remainder {b % (world_size * accumulation)}. "
            "Change the world size, the accumulation, or b of the job."
        )
    if not 0 <= rank < world_size or not (micro is None or 0 <= micro < accumulation):
        raise InvalidInput(
            f"rank must be in [0, {world_size}) and micro in [0, {accumulation}); got rank {rank}, micro {micro}."
        )
    if micro is None:
        return range(rank * b // world_size, (rank + 1) * b // world_size)
    part = b // (world_size * accumulation)
    start = (rank * accumulation + micro) * part
    return range(start, start + part)
