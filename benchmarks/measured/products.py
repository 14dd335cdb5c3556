"""The matrix products of a selection and nothing else, in the two ways a CPU can do them.

Letters: B candidates, D width, n drawn in one round, C rows of one block, K of the n in one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def cut_products(towers: Sequence[torch.Tensor], *lists_of_sizes: Sequence[int]) -> Iterator[list[Callable[[], None]]]:
    """Give one action per list of sizes, which does its products cut and spread over threads as the selection does."""
    with BlockThreads(len(towers[0])) as threads:

        def multiply_all(sizes: Sequence[int]) -> None:
            for n in sizes:
                chunks = chunk_sizes(n, -(-n // CHOSEN_BLOCK))

                def block(part: int, start: int, stop: int, workspace: Workspace) -> None:
                    tower_BD, first = towers[part], 0
                    for K in chunks:  # noqa: B023
                        product_KC = workspace.tiles(K, stop - start, tower_BD.dtype)[0]
                        multiply(tower_BD[first : first + K], tower_BD[start:stop], out=product_KC)
                        first += K

                threads.for_each_block(block, num_parts=len(towers))

        yield [partial(multiply_all, sizes) for sizes in lists_of_sizes]
