"""Which rows of each batch one process trains on: its rank, and how many micro-steps it takes for them."""

from __future__ import annotations

from dataclasses import dataclass

from superbatch.formats.errors import InvalidInput
from superbatch.formats.slices import slot_range


@dataclass(frozen=True, slots=True)
class Share:
    """The part of every batch that one rank trains on.

    rank: r, in [0, world_size): the position among the data-parallel ranks.
    world_size: R, data-parallel ranks; tensor- or pipeline-parallel processes of one rank share its number.
    accumulation: A, micro-steps per optimizer step.
    """

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        if self.world_size < 1 or self.accumulation < 1 or not 0 <= self.rank < self.world_size:
            raise InvalidInput(
                "rank must be in [0, world_size), world_size and accumulation at least 1; "
                f"got {self.rank}, {self.world_size}, {self.accumulation}. Check the launcher."
            )

    def slots(self, b: int, micro: int) -> range:
        """Return the slots of micro-step `micro`, in order: b / (R * A) of them.

        Raises:
            InvalidInput: b is not divisible by R * A, or micro is out of range.
        """
        return slot_range(b, self.rank, world_size=self.world_size, accumulation=self.accumulation, micro=micro)

    def slots_of_all(self, b: int, micro: int) -> list[int]:
        """Return the slots of micro-step `micro` of rank 0, then of rank 1, and so on: b / A of them.

        A framework that cuts this list into R equal parts and gives part r to rank r gives each rank its own slots.

        Raises:
            InvalidInput: b is not divisible by R * A, or micro is out of range.
        """
        of_each = (Share(rank, self.world_size, self.accumulation) for rank in range(self.world_size))
        return [slot for share in of_each for slot in share.slots(b, micro)]
