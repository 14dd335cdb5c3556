"""Blocks of candidates spread over threads, each block on one core.

Torch would split every single operation over its threads and wait for the slowest each time: some 5,000 times in one
selection. Here a thread does all operations of its block alone and waits once per round. Measured on 2 cores that are
shared with other work, that is 15 times as fast; on idle cores it is no slower. And since a block never depends on how
many threads there are, neither do the bits of the result.

Letters: B rows, C rows of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# Cut by position and never by timing, so that the same input gives the same bits. Measured on 1 MB of L2 per core: the
# two buffers of a tile, and the block of one tower at D = 512, each fit.
CANDIDATE_BLOCK = 512
CHOSEN_BLOCK = 128


class Workspace:
    """Two buffers of one tile each, for any type, made once and used by every block of a thread."""

    def __init__(self, device: torch.device) -> None:
        num_bytes = 2 * CHOSEN_BLOCK * CANDIDATE_BLOCK * torch.finfo(torch.float64).bits // 8
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8, device=device) for _ in range(2)]

    def tile(self, num_rows: int, num_columns: int, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return both buffers as contiguous [num_rows, num_columns]; what they hold is left over."""
        num_bytes = num_rows * num_columns * dtype.itemsize
        first, second = (buffer[:num_bytes].view(dtype).view(num_rows, num_columns) for buffer in self._buffers)
        return first, second


class BlockThreads:
    """As many one-core threads as the caller's torch has, or none where it has one or the data is not on the CPU."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._starts = range(0, num_rows, CANDIDATE_BLOCK)
        self._num_rows = num_rows
        self._is_threaded = device.type == "cpu" and torch.get_num_threads() > 1
        num_threads = max(1, min(torch.get_num_threads(), len(self._starts))) if self._is_threaded else 1
        self._workspaces = [Workspace(device) for _ in range(num_threads)]
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> BlockThreads:
        if self._is_threaded:
            self._pool = _one_core_pool(len(self._workspaces))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def on_one_core(self, work: Callable[[], T]) -> T:
        """Return work(), done by one of the threads.

        For what is too small to share, between blocks: torch's own helper threads would go on spinning for a while and
        take the cores from the blocks.
        """
        return work() if self._pool is None else self._pool.submit(work).result()

    def for_each_block(self, work: Callable[[int, int, Workspace], None]) -> None:
        """Call work(start, stop, workspace) for each block of rows [start, stop); return when all are done.

        Calls run at the same time: they may write to their own rows and their workspace only.
        """

        def run(start: int) -> None:
            workspace = self._workspaces.pop()
            work(start, min(start + CANDIDATE_BLOCK, self._num_rows), workspace)
            self._workspaces.append(workspace)

        for _ in map(run, self._starts) if self._pool is None else self._pool.map(run, self._starts):
            pass


def _one_core_pool(num_threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run torch on one core each, all of them started.

    torch.set_num_threads holds for the calling thread, but is also what threads started later begin with: so it is set
    back as soon as all have read it.
    """
    before = torch.get_num_threads()
    started = Barrier(num_threads)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="selection", initializer=_use_one_core)
    for _ in pool.map(lambda _: started.wait(), range(num_threads)):
        pass
    torch.set_num_threads(before)
    return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # reads the process-wide number, which the first operation would otherwise do, and undo 1
    torch.set_num_threads(1)
