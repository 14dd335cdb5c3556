"""Which rows each tar holds, by hand and over all layouts of one batch size."""

from __future__ import annotations

import pytest

from superbatch.formats.errors import InvalidInput
from superbatch.webdataset.layout import (
    TarLayout,
    TarPart,
    sample_key,
    seq_of_key,
    tar_index_of,
    tar_name,
    tar_pattern,
)


@pytest.mark.parametrize(
    ("world_size", "accumulation", "tar_index", "part"),
    [
        (1, 1, 0, TarPart(0, 0, 0, range(0, 8))),
        (1, 1, 3, TarPart(3, 0, 0, range(0, 8))),
        (2, 1, 4, TarPart(2, 0, 0, range(0, 4))),
        (2, 1, 5, TarPart(2, 1, 0, range(4, 8))),
        (2, 2, 4, TarPart(1, 0, 0, range(0, 2))),  # both ranks' first micro-step, then both ranks' second
        (2, 2, 5, TarPart(1, 1, 0, range(4, 6))),
        (2, 2, 6, TarPart(1, 0, 1, range(2, 4))),
        (2, 2, 7, TarPart(1, 1, 1, range(6, 8))),
        (8, 1, 15, TarPart(1, 7, 0, range(7, 8))),
    ],
)
def test_tar_of_step_and_rank_holds_their_slots(
    world_size: int, accumulation: int, tar_index: int, part: TarPart
) -> None:
    assert TarLayout(8, world_size, accumulation).part_of(tar_index) == part


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_tars_of_a_batch_hold_each_slot_once(world_size: int, accumulation: int) -> None:
    layout = TarLayout(48, world_size, accumulation)
    parts = [layout.part_of(index) for index in layout.tar_indices(5, 6)]

    assert {part.seq for part in parts} == {5}
    assert sorted(slot for part in parts for slot in part.slots) == list(range(48))
    assert {len(part.slots) for part in parts} == {layout.rows_per_tar}
    assert [part.rank for part in parts] == [index % world_size for index in range(layout.tars_per_batch)]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InvalidInput, match="remainder 2"):
        TarLayout(8, 3)


def test_names_sort_as_indices_and_expand_from_one_pattern() -> None:
    assert tar_name(12) == "00000012.tar"
    assert tar_pattern(range(24, 48)) == "{00000024..00000047}.tar"
    assert sorted(map(tar_name, [9, 100, 11])) == [tar_name(9), tar_name(11), tar_name(100)]
    with pytest.raises(InvalidInput, match="10\\^8"):
        tar_name(10**8)


@pytest.mark.parametrize(
    "url",
    [
        "/data/tars/00000012.tar",
        "00000012.tar",
        "pipe:curl -sSf http://127.0.0.1:8700/ab/00000012.tar",
        "pipe:t=$(mktemp) && curl -o $t 'http://host/00000012.tar' && cat $t; exit $s",
    ],
)
def test_the_index_of_a_tar_is_read_from_its_path_or_command(url: str) -> None:
    assert tar_index_of(url) == 12


@pytest.mark.parametrize("url", ["/data/12.tar", "/data/00000012.tar.gz", "x00000012.tar", ""])
def test_a_tar_with_another_name_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="name like"):
        tar_index_of(url)


def test_a_key_names_place_and_uid_without_a_dot() -> None:
    uid = bytes(range(16))
    key = sample_key(7, 3, uid)

    assert key == "000000000007-000003-000102030405060708090a0b0c0d0e0f"
    assert "." not in key
    assert seq_of_key(key) == (7, 3, uid)
    with pytest.raises(InvalidInput, match="<seq>"):
        seq_of_key("000012")
