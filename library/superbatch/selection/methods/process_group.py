"""The peers of a selection whose candidates are split over the processes of a `torch.distributed` group.

Letters: B candidates of this process, n drawn by all together, m of them held here, A rows of all processes together.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.candidates import Candidates
from superbatch.selection.methods.draw import draw_largest
from superbatch.selection.methods.meeting import Meeting
from superbatch.selection.methods.peers import Drawn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int, Int64
    from torch import Tensor

_SIGN_BIT = np.uint64(1 << 63)


class ProcessGroupPeers:
    """See `Peers`.

    Cost: per draw at most 32*n bytes of each process; per `gather` the rows of the n drawn, in one sum over all
    processes; 24 bytes ahead of each exchange. Nothing but `gather_all` grows with B.
    """

    def __init__(self, candidates: Candidates, meeting: Meeting) -> None:
        self._candidates = candidates
        self._meeting = meeting

    def draw_largest(
        self, perturbed: Float64[Tensor, " B"], n: int, *, rank: Int[Tensor, " B"], free: Bool[Tensor, " B"]
    ) -> Drawn:
        """Return the n largest of all: each process proposes its own n largest, and all sort the same proposals."""
        own_m = draw_largest(perturbed, n, rank=rank, free=free)
        value_m = perturbed[own_m].view(torch.int64)
        identity_m3 = self._identity[own_m.cpu()].to(own_m.device)
        proposed_m4 = torch.cat([value_m[:, None], identity_m3], dim=1)
        sizes = self._meeting.sizes("draw", len(own_m), must_agree=n)
        proposed_A4 = torch.cat(self._meeting.all_gather(proposed_m4, sizes))
        start = sum(sizes[: self._meeting.rank])
        order_n = _largest_first(proposed_A4)[:n]
        place_m = ((order_n >= start) & (order_n < start + len(own_m))).nonzero().squeeze(1)
        return Drawn(own_m[order_n[place_m] - start], place_m, len(order_n))

    def gather(self, values: Tensor, drawn: Drawn) -> Tensor:
        """Return the values of all drawn, bit by bit: each process adds zeros for those of the others, as integers."""
        row_length = math.prod(values.shape[1:])
        num_bytes = row_length * values.element_size()
        rows_nX = torch.zeros((drawn.count, -(-num_bytes // 8) * 8), dtype=torch.uint8, device=values.device)
        rows_nX[drawn.place, :num_bytes] = values.reshape(len(values), row_length).contiguous().view(torch.uint8)
        self._meeting.sizes("gather", must_agree=drawn.count)
        summed_nX = self._meeting.sum_words(rows_nX.view(torch.int64)).view(torch.uint8)[:, :num_bytes]
        return summed_nX.contiguous().view(values.dtype).view(drawn.count, *values.shape[1:])

    def gather_all(self, values: Tensor) -> tuple[Tensor, int]:
        """Return every process's values in rank order, and where this process's begin."""
        sizes = self._meeting.sizes("gather_all", len(values))
        return torch.cat(self._meeting.all_gather(values, sizes)), sum(sizes[: self._meeting.rank])

    def agreed(self, values: Tensor) -> Tensor:
        """Return the values of process 0."""
        return self.gather_all(values if self._meeting.rank == 0 else values[:0])[0]

    def total(self, count: int) -> int:
        """Return the sum of every process's count."""
        return sum(self._meeting.sizes("total", count))

    @cached_property
    def _identity(self) -> Int64[Tensor, "B 3"]:
        """The uid as two numbers and the dataset_index: as integers, in the order that breaks ties."""
        words_B2 = np.ascontiguousarray(self._candidates.uid).view(">u8").astype(np.uint64) ^ _SIGN_BIT
        index_B1 = self._candidates.dataset_index[:, None]
        return torch.from_numpy(np.concatenate([words_B2.view(np.int64), index_B1], axis=1))


def _largest_first(proposed_A4: Int64[Tensor, "A 4"]) -> Int64[Tensor, " A"]:
    """Return the order by value, the largest first, ties by identity: stable sorts by the least important key first."""
    order_A = proposed_A4[:, 3].argsort(stable=True)
    for key_A in (proposed_A4[:, 2], proposed_A4[:, 1]):
        order_A = order_A[key_A[order_A].argsort(stable=True)]
    value_A = proposed_A4[:, 0].contiguous().view(torch.float64)
    return order_A[value_A[order_A].argsort(descending=True, stable=True)]
