"""The matrix products of a selection and nothing else, in the two ways a CPU can do them.

Letters: B candidates, D width, n drawn in one round, C rows of one block, K of the n in one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.pairs.block_threads import CHOSEN_BLOCK, BlockThreads, Workspace
from superbatch.selection.pairs.cpu import multiply


def num_flops(towers: Sequence[torch.Tensor], sizes: Sequence[int]) -> int:
    """Return the FLOPs of one product [B, D] x [D, n] per tower and size n."""
    B, D = towers[0].shape
    return 2 * len(towers) * B * D * sum(sizes)


def whole_products(towers: Sequence[torch.Tensor], sizes: Sequence[int]) -> Callable[[], None]:
    """Return an action that does one product per tower and size, each as one call that torch spreads over threads."""
    out = torch.empty(len(towers[0]) * max(sizes), dtype=towers[0].dtype)

    def multiply() -> None:
        for n in sizes:
            product_Bn = out[: len(towers[0]) * n].view(-1, n)
            for tower_BD in towers:
                torch.mm(tower_BD, tower_BD[:n].T, out=product_Bn)

    return multiply


def cut_products(towers: Sequence[torch.Tensor], sizes: Sequence[int]) -> Callable[[], None]:
    """Return an action that does the same products cut and spread over threads as the selection does it.

    Opening the threads, which a selection does too, is inside: about 1 ms.
    """

    def multiply_all() -> None:
        with BlockThreads(len(towers[0])) as threads:
            for n in sizes:
                threads.for_each_block(partial(_multiply_block, towers=towers, n=n), num_parts=len(towers))

    return multiply_all


def _multiply_block(
    part: int, start: int, stop: int, workspace: Workspace, *, towers: Sequence[torch.Tensor], n: int
) -> None:
    tower_BD, first = towers[part], 0
    for K in chunk_sizes(n, -(-n // CHOSEN_BLOCK)):
        product_KC = workspace.tiles(K, stop - start, tower_BD.dtype)[0]
        multiply(tower_BD[first : first + K], tower_BD[start:stop], out=product_KC)
        first += K
