"""Blocks of candidates spread over threads, each block on one core.

Torch would split every single operation over its threads and wait for the slowest each time: some 5,000 times in one
selection. Here a thread does all operations of its block alone and waits once per round. Measured on 2 cores that are
shared with other work, that is 15 times as fast; on idle cores it is no slower. And since a block never depends on how
many threads there are, neither do the bits of the result.

The thread that opens the blocks works on one core too until it closes them: what it does between rounds is too small to
share, and torch's own threads go on spinning after each operation, on the cores that the blocks need (measured: half
as much processor time again).

Letters: B rows, C rows of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier, Thread
from types import TracebackType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Cut by position and never by timing, so that the same input gives the same bits. Measured on Zen 4 with 1 MB of L2 per
# core, D = 512, n = 102: with 1,024 candidates the passes spend a third more time in calls, and the threads wait for
# the interpreter's lock more often; with 4,096 nothing more is gained.
CANDIDATE_BLOCK = 2048
CHOSEN_BLOCK = 128

# Both directions of two models. More threads than parts times blocks would have nothing to do.
_USUAL_PARTS = 4


class Workspace:
    """Buffers of one tile each, for any type, made once and used by every block of a thread."""

    def __init__(self) -> None:
        num_bytes = CANDIDATE_BLOCK * CHOSEN_BLOCK * torch.float64.itemsize
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8) for _ in range(3)]
        self._cut: dict[tuple[int, int, tuple[torch.dtype, ...]], list[Tensor]] = {}

    def tiles(self, num_rows: int, num_columns: int, *dtypes: torch.dtype) -> list[Tensor]:
        """Return one contiguous [num_rows, num_columns] per type, at most 3; what they hold is left over."""
        key = num_rows, num_columns, dtypes
        if key not in self._cut:
            count = num_rows * num_columns
            self._cut[key] = [
                buffer[: count * dtype.itemsize].view(dtype).view(num_rows, num_columns)
                for buffer, dtype in zip(self._buffers, dtypes, strict=False)
            ]
        return self._cut[key]


class BlockThreads:
    """The caller's thread and helpers, together as many as the caller's torch has, each on one core."""

    def __init__(self, num_rows: int) -> None:
        starts = range(0, num_rows, CANDIDATE_BLOCK)
        self._blocks = [(start, min(start + CANDIDATE_BLOCK, num_rows)) for start in starts]
        self._threads_before = torch.get_num_threads()
        num_threads = min(self._threads_before, max(1, _USUAL_PARTS * len(self._blocks)))
        self._workspaces = [Workspace() for _ in range(num_threads)]
        self._helpers: ThreadPoolExecutor | None = None

    def __enter__(self) -> BlockThreads:
        if len(self._workspaces) > 1:
            self._helpers = _one_core_helpers(len(self._workspaces) - 1, threads_before=self._threads_before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helpers is not None:
            self._helpers.shutdown()
            torch.set_num_threads(self._threads_before)

    def for_each_block(self, work: Callable[[int, int, int, Workspace], None], *, num_parts: int) -> None:
        """Call work(part, start, stop, workspace) for each part and block of rows [start, stop), till all are done.

        Calls run at the same time: each may write to its own rows of its own part, and to its workspace, only.
        """
        pieces = iter([(part, start, stop) for start, stop in self._blocks for part in range(num_parts)])

        def work_off(workspace: Workspace) -> None:
            for part, start, stop in pieces:  # one iterator for all threads: each piece is taken once
                work(part, start, stop, workspace)

        mine, *others = self._workspaces
        running = [] if self._helpers is None else [self._helpers.submit(work_off, other) for other in others]
        try:
            work_off(mine)
        finally:
            wait(running)
        for helper in running:
            helper.result()


def _one_core_helpers(num_helpers: int, *, threads_before: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run torch on one core each, all of them started; and let the caller run so too.

    torch.set_num_threads holds for the calling thread, but is also what threads started later begin with: so it is set
    back, by a thread that does nothing else, as soon as all have read it.
    """
    started = Barrier(num_helpers)
    pool = ThreadPoolExecutor(num_helpers, thread_name_prefix="selection", initializer=_use_one_core)
    for _ in pool.map(lambda _: started.wait(), range(num_helpers)):
        pass
    _use_one_core()
    last = Thread(target=torch.set_num_threads, args=(threads_before,))
    last.start()
    last.join()
    return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # reads the process-wide number, which the first operation would otherwise do, and undo 1
    torch.set_num_threads(1)
