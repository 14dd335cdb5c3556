from __future__ import annotations

import torch

from superbatch.selection.pairs.converted import Converted


def test_a_tower_of_another_type_is_converted_once() -> None:
    kept, tower = Converted(), torch.rand(10, 4)
    first = kept.tower(tower, torch.bfloat16)
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, tower.bfloat16())
    assert kept.tower(tower, torch.bfloat16) is first
    assert kept.tower(tower, torch.float64) is not first


def test_a_tower_of_the_right_type_is_not_copied() -> None:
    tower = torch.rand(10, 4)
    assert Converted().tower(tower, torch.float32) is tower


def test_towers_beyond_the_bound_stay_as_they_are() -> None:
    kept, small, large = Converted(most_bytes=100), torch.rand(10, 4), torch.rand(11, 4)
    assert kept.tower(large, torch.bfloat16).dtype == torch.bfloat16  # 88 bytes
    assert kept.tower(small, torch.bfloat16) is small  # 80 more are too many
    assert kept.tower(large, torch.bfloat16).dtype == torch.bfloat16


def test_a_tower_that_took_the_place_of_another_in_memory_is_not_mistaken_for_it() -> None:
    kept = Converted()
    for value in range(50):
        tower = torch.full((3, 2), float(value))
        assert kept.tower(tower, torch.bfloat16)[0, 0].item() == value
        del tower
