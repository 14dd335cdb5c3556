"""Rows of a sharded super-batch to the ranks that train on them.

Letters: B rows of this process, b chosen, R processes, n = b/R rows of one process's slice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from superbatch.formats.slices import slot_range
from superbatch.selection.errors import InvalidSelection

if TYPE_CHECKING:
    from jaxtyping import Int64, Shaped


def exchange_rows(
    rows: Shaped[Tensor, "B ..."], positions: Int64[Tensor, " b"], *, group: dist.ProcessGroup
) -> Shaped[Tensor, "n ..."]:
    """Return the rows that this process trains on, in slot order; every process of the group calls this.

    The chosen of a sharded selection lie in the processes that loaded them, in uneven numbers. This moves each to the
    rank whose slots it fills: rank r gets slots [r*b/R, (r+1)*b/R), as from a batch list. Call it once per tensor
    (pixels, tokens); for gradient accumulation cut the result into equal consecutive parts.
    Args:
        rows: this process's part of the super-batch, of any type; no gradient passes through.
        positions: what `select_batch(..., group=group)` returned, the same in every process.
        group: the group of that call.
    Returns: b/R rows on the device of `rows`.
    Raises:
        InvalidInput: b is not divisible by R.
        InvalidSelection: a position beyond the rows of all processes; in every process alike.
    Cost: each chosen row is sent once, b/R * (R - 1)/R of them by each process on the average; one gather of R numbers.
    """
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    own = slot_range(len(positions), rank, world_size=world_size)
    starts = _starts(len(rows), rows.device, world_size, group)
    position_b = positions.cpu()
    if len(position_b) and not 0 <= int(position_b.min()) <= int(position_b.max()) < int(starts[-1]):
        raise InvalidSelection(
            f"positions must be in [0, {int(starts[-1])}), the rows of all processes; got "
            f"{int(position_b.min())} to {int(position_b.max())}. Pass the part that select_batch was given."
        )
    holder_b = torch.searchsorted(starts, position_b, right=True) - 1
    wanted_by = [slot_range(len(positions), r, world_size=world_size) for r in range(world_size)]
    sent = [position_b[s.start : s.stop][holder_b[s.start : s.stop] == rank] - starts[rank] for s in wanted_by]
    holder_n = holder_b[own.start : own.stop]
    received_counts = torch.bincount(holder_n, minlength=world_size).tolist()
    outgoing = rows.detach()[torch.cat(sent).to(rows.device)].contiguous()
    incoming = torch.empty((len(own), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    _all_to_all(incoming, outgoing, received_counts, [len(part) for part in sent], group)
    in_slots = torch.empty_like(incoming)
    in_slots[torch.argsort(holder_n, stable=True).to(rows.device)] = incoming
    return in_slots


def _starts(num_rows: int, device: torch.device, world_size: int, group: dist.ProcessGroup) -> Int64[Tensor, " _"]:
    """Return where each process's rows begin among all, and at the end how many there are."""
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([num_rows], device=device), group=group)
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(sizes).cpu()]).cumsum(0)


def _all_to_all(
    incoming: Tensor, outgoing: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup
) -> None:
    """Fill `incoming` from all processes. As bytes: not every backend knows every type."""
    row_numbers = math.prod(incoming.shape[1:])
    into, out_of = (tensor.view(len(tensor), row_numbers).view(torch.uint8) for tensor in (incoming, outgoing))
    dist.all_to_all_single(into, out_of, output_split_sizes=received, input_split_sizes=sent, group=group)
