from __future__ import annotations

import torch

from superbatch.selection.pairs.converted import Converted


def test_a_tower_of_another_type_is_converted_once() -> None:
    kept, tower = Converted(), torch.rand(10, 4)
    first = kept.reader(tower, torch.bfloat16)(2, 5)
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, tower[2:5].bfloat16())
    again = kept.reader(tower, torch.bfloat16)(2, 5)
    assert again.data_ptr() == first.data_ptr()
    tower.zero_()  # which no caller does: it shows that the rows are not converted again
    assert torch.equal(kept.reader(tower, torch.bfloat16)(2, 5), again)
    assert again.any()


def test_each_block_and_each_type_has_its_own_rows() -> None:
    kept, tower = Converted(), torch.rand(10, 4)
    for dtype in (torch.bfloat16, torch.float64):
        for start, stop in ((0, 4), (4, 8), (8, 10), (0, 4)):
            assert torch.equal(kept.reader(tower, dtype)(start, stop), tower[start:stop].to(dtype))


def test_a_tower_of_the_right_type_is_not_copied() -> None:
    tower = torch.rand(10, 4)
    assert Converted().reader(tower, torch.float32)(3, 7).data_ptr() == tower[3:].data_ptr()


def test_towers_beyond_the_bound_are_converted_in_each_pass() -> None:
    kept, small, large = Converted(most_bytes=100), torch.rand(10, 4), torch.rand(11, 4)
    readers = {tower: kept.reader(tower, torch.bfloat16) for tower in (large, small)}  # of 88 and 80 bytes
    assert readers[large](0, 3).data_ptr() == readers[large](0, 3).data_ptr()
    first, second = readers[small](0, 3), readers[small](0, 3)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, small[:3].bfloat16())


def test_a_tower_that_took_the_place_of_another_in_memory_is_not_mistaken_for_it() -> None:
    kept = Converted()
    for value in range(50):
        tower = torch.full((3, 2), float(value))
        assert kept.reader(tower, torch.bfloat16)(0, 3)[0, 0].item() == value
        del tower
