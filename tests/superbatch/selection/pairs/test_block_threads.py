from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK, CHOSEN_BLOCK, BlockThreads, Workspace


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("num_rows", [0, 1, CANDIDATE_BLOCK, 2 * CANDIDATE_BLOCK + 1])
def test_every_row_of_every_part_is_worked_on_once(num_rows: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    seen = torch.zeros(2, num_rows, dtype=torch.int64)

    def work(part: int, start: int, stop: int, workspace: Workspace) -> None:
        assert 0 < stop - start <= CANDIDATE_BLOCK
        assert stop <= num_rows
        seen[part, start:stop] += 1

    with BlockThreads(num_rows) as threads:
        threads.for_each_block(work, num_parts=2)
    assert (seen == 1).all()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_failure_in_a_block_reaches_the_caller_and_the_threads_go_on(num_threads: int) -> None:
    torch.set_num_threads(num_threads)

    def fail(part: int, start: int, stop: int, workspace: Workspace) -> None:
        raise IndexError("a block")

    done: list[int] = []
    with BlockThreads(9 * CANDIDATE_BLOCK) as threads:
        for _ in range(2):
            with pytest.raises(IndexError, match="a block"):
                threads.for_each_block(fail, num_parts=1)
        threads.for_each_block(lambda part, start, stop, workspace: done.append(start), num_parts=1)
    assert sorted(done) == [block * CANDIDATE_BLOCK for block in range(9)]


def test_blocks_at_work_at_the_same_time_share_no_buffer() -> None:
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=20)
    buffers: list[int] = []

    def work(part: int, start: int, stop: int, workspace: Workspace) -> None:
        both.wait()
        buffers.append(workspace.tiles(2, 2, torch.float32)[0].data_ptr())
        both.wait()

    with BlockThreads(2 * CANDIDATE_BLOCK) as threads:
        threads.for_each_block(work, num_parts=1)
    assert len(set(buffers)) == 2


def test_blocks_and_caller_work_on_one_core_and_other_threads_on_as_many_as_before() -> None:
    torch.set_num_threads(3)
    everyone = threading.Barrier(3, timeout=20)
    seen: list[int] = []

    def work(part: int, start: int, stop: int, workspace: Workspace) -> None:
        everyone.wait()  # so that each of the three has one block
        seen.append(torch.get_num_threads())

    with BlockThreads(3 * CANDIDATE_BLOCK) as threads, ThreadPoolExecutor(1) as later:
        threads.for_each_block(work, num_parts=1)
        assert seen == [1, 1, 1]
        assert torch.get_num_threads() == 1
        assert later.submit(torch.get_num_threads).result() == 3
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3


def test_the_caller_gets_its_threads_back_after_a_failure() -> None:
    torch.set_num_threads(3)
    with pytest.raises(RuntimeError, match="outside"), BlockThreads(5):
        raise RuntimeError("outside")
    assert torch.get_num_threads() == 3


def test_tiles_of_one_workspace_do_not_overlap() -> None:
    first, second, third = Workspace().tiles(3, 5, torch.float32, torch.float32, torch.bfloat16)
    for value, tile in enumerate((first, second, third)):
        tile.fill_(value)
    assert (first == 0).all()
    assert (second == 1).all()
    assert (third == 2).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_tile_of_each_type_fits_its_buffers(dtype: torch.dtype) -> None:
    for tile in Workspace().tiles(CHOSEN_BLOCK, CANDIDATE_BLOCK, torch.float64, torch.float64, dtype):
        assert tile.shape == (CHOSEN_BLOCK, CANDIDATE_BLOCK)
