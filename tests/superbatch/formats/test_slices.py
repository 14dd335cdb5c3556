"""The slots of each rank and micro-step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.errors import InvalidInput
from superbatch.formats.keys import checked_key
from superbatch.formats.slices import slot_range


@pytest.mark.parametrize(
    ("b", "rank", "ranks", "steps", "micro", "expected"),
    [
        (12, 0, 1, 1, None, range(0, 12)),
        (12, 0, 2, 1, None, range(0, 6)),
        (12, 1, 2, 1, None, range(6, 12)),
        (12, 2, 3, 1, None, range(8, 12)),
        (12, 3, 4, 1, None, range(9, 12)),
        (12, 1, 2, 3, None, range(6, 12)),
        (12, 0, 2, 3, 0, range(0, 2)),
        (12, 0, 2, 3, 2, range(4, 6)),
        (12, 1, 2, 3, 0, range(6, 8)),
        (12, 1, 2, 3, 2, range(10, 12)),
        (12, 5, 6, 2, 1, range(11, 12)),
        (1, 0, 1, 1, 0, range(0, 1)),
    ],
)
def test_slots_of_a_rank(  # noqa: PLR0917
    b: int, rank: int, ranks: int, steps: int, micro: int | None, expected: range
) -> None:
    assert slot_range(b, rank, world_size=ranks, accumulation=steps, micro=micro) == expected


@given(part=st.integers(1, 20), world_size=st.integers(1, 8), accumulation=st.integers(1, 4))
def test_ranks_and_micro_steps_share_out_the_batch_in_order(part: int, world_size: int, accumulation: int) -> None:
    b = part * world_size * accumulation
    slots = []
    for rank in range(world_size):
        own = [
            slot
            for micro in range(accumulation)
            for slot in slot_range(b, rank, world_size=world_size, accumulation=accumulation, micro=micro)
        ]
        assert own == list(slot_range(b, rank, world_size=world_size, accumulation=accumulation))
        slots += own
    assert slots == list(range(b))


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(InvalidInput, match=r"b = 128, 3 \* 2 = 6, remainder 2"):
        slot_range(128, 0, world_size=3, accumulation=2)


@pytest.mark.parametrize(
    ("b", "rank", "world_size", "accumulation", "micro"),
    [(12, 2, 2, 1, None), (12, -1, 2, 1, None), (12, 0, 2, 2, 2), (0, 0, 1, 1, None), (12, 0, 0, 1, None)],
)
def test_positions_out_of_range_are_refused(
    b: int, rank: int, world_size: int, accumulation: int, micro: int | None
) -> None:
    with pytest.raises(InvalidInput):
        slot_range(b, rank, world_size=world_size, accumulation=accumulation, micro=micro)


@pytest.mark.parametrize("key", ["a.tar", "pool/000000.tar", "a..b/c", "ü/ß", "..."])
def test_keys_inside_a_root_are_taken_as_they_are(key: str) -> None:
    assert checked_key(key, where="test") == key


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\\b", "C:/x", "c:x", "a\0b", "a\nb", "\x7f", "a\ud800"],
)
def test_keys_that_could_leave_their_root_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match="relative path"):
        checked_key(key, where="test")
