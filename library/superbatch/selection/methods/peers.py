"""Who holds the candidates: one process, or several with a part each.

Letters: B candidates of this process, n drawn by all together, m of them held here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from superbatch.selection.methods.draw import draw_largest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """What all processes drew together, as one of them sees it.

    `index` are the positions of those that this process holds; `place` is where each of them stands among all `count`
    drawn, the largest first.
    """

    index: Int[Tensor, " m"]
    place: Int[Tensor, " m"]
    count: int

    def only(self, kept: Bool[Tensor, " n"]) -> Drawn:
        """Return those drawn whose place is kept, in the same order."""
        new_place_n = kept.cumsum(0) - 1
        here_m = kept[self.place]
        return Drawn(self.index[here_m], new_place_n[self.place[here_m]], int(kept.sum()))


class Peers(Protocol):
    """Law: every process sees the same draw, and it is the draw of one process that holds all candidates."""

    def draw_largest(
        self, perturbed: Float64[Tensor, " B"], n: int, *, rank: Int[Tensor, " B"], free: Bool[Tensor, " B"]
    ) -> Drawn:
        """Return the n largest of all processes' free candidates, ties by uid, then dataset_index; fewer where fewer
        are free."""
        ...

    def gather(self, values: Tensor, drawn: Drawn) -> Tensor:
        """Return [count, ...], the values of all drawn in their order, from each process's own [m, ...]."""
        ...

    def gather_all(self, values: Tensor) -> tuple[Tensor, int]:
        """Return every process's [B, ...] one after the other, and where this process's own begin; B may differ."""
        ...

    def agreed(self, values: Tensor) -> Tensor:
        """Return one process's values, where rounding might tell one process another answer than the next."""
        ...

    def total(self, count: int) -> int:
        """Return the sum of every process's count."""
        ...


class OneProcess:
    """All candidates are here."""

    def draw_largest(
        self, perturbed: Float64[Tensor, " B"], n: int, *, rank: Int[Tensor, " B"], free: Bool[Tensor, " B"]
    ) -> Drawn:
        """Return the n largest of the free."""
        index_n = draw_largest(perturbed, n, rank=rank, free=free)
        return Drawn(index_n, torch.arange(len(index_n), device=index_n.device), len(index_n))

    def gather(self, values: Tensor, drawn: Drawn) -> Tensor:
        """Return the values, which are complete and in order."""
        del drawn
        return values

    def gather_all(self, values: Tensor) -> tuple[Tensor, int]:
        """Return the values, which are complete."""
        return values, 0

    def agreed(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def total(self, count: int) -> int:
        """Return the count."""
        return count
