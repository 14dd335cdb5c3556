"""Parquet shards: only what is wanted is read, decoded groups are kept within a bound, damage is found."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.errors import DigestMismatch, InvalidInput, UnreadableExample
from superbatch.reading import ExampleReader
from superbatch.reading.local_files import LocalFiles
from superbatch.reading.parquet_footers import TAIL_BYTES
from tests.superbatch.reading.failing_source import FailingSource
from tests.superbatch.reading.shard_files import Shards, shard_table, write_parquet

PICTURE_BYTES = 20_000
PAIRS = [[(os.urandom(PICTURE_BYTES), f"caption {shard} {number}") for number in range(12)] for shard in range(2)]
KEY = "parquet/000000.parquet"


@pytest.fixture
def world(tmp_path: Path) -> Shards:
    """Two shards of four row groups of three rows."""
    return write_parquet(tmp_path, PAIRS, compression="none")


def contents(reader: ExampleReader, world: Shards, chosen: list[int]) -> list[tuple[bytes, bytes]]:
    return [(example.a, example.b) for example in reader.read_rows(world.batch(chosen), world.table)]


def one_column(tmp_path: Path, column: pa.Array, **places: object) -> tuple[pa.RecordBatch, object]:
    """A shard whose captions are this column, and a batch of its row 0."""
    (tmp_path / "p").mkdir(exist_ok=True)
    table = pa.table({"image": pa.array([b"picture"] * len(column)), "t": column})
    pq.write_table(table, tmp_path / "p" / "0.parquet")
    places = {"dataset_index": 0, "shard_id": 0, "sample_index": 0, "row_group": 0, "row_in_group": 0, **places}
    head = {"batch_seq": [0], "slot": [0], "variant": [0], "uid": [b"u" * 16]}
    rows = batch_rows({**head, **{name: [value] for name, value in places.items()}}).to_batches()[0]
    fields = {"a_field": "image", "caption_field": "t"}
    return rows, shard_table(["p/0.parquet"], [len(column)], format="parquet", **fields)


def test_only_the_wanted_columns_of_the_wanted_row_groups_are_read(world: Shards) -> None:
    reader = ExampleReader({"pool": world.root}, gap_bytes=0)
    assert contents(reader, world, [4]) == world.wanted([4])
    metadata = pq.read_metadata(world.root / KEY).row_group(1)
    columns = [metadata.column(index) for index in range(metadata.num_columns)]
    wanted = sum(column.total_compressed_size for column in columns if column.path_in_schema != "image2")
    assert reader.bytes_read == TAIL_BYTES + wanted
    assert reader.bytes_used == PICTURE_BYTES + len("caption 0 4")


def test_a_row_group_is_decoded_once_while_it_is_kept(world: Shards) -> None:
    source = FailingSource(LocalFiles(world.root))
    reader = ExampleReader({"pool": source})
    assert contents(reader, world, [3, 5]) == world.wanted([3, 5])
    calls = source.calls
    assert contents(reader, world, [4, 3]) == world.wanted([4, 3])
    assert source.calls == calls
    reader.close()
    assert contents(reader, world, [4]) == world.wanted([4])
    assert source.calls == 2 * calls


@pytest.mark.parametrize(("num_kept", "expected"), [(0, 2), (1, 2), (2, 1), (8, 1)])
def test_the_newest_groups_are_kept_within_the_bound(world: Shards, num_kept: int, expected: int) -> None:
    source = FailingSource(LocalFiles(world.root))
    reader = ExampleReader({"pool": source}, cache_bytes=num_kept * 3 * (PICTURE_BYTES + 100))
    for index in (0, 3, 6):  # three groups of the first shard
        contents(reader, world, [index])
    calls = source.calls
    contents(reader, world, [6])
    assert source.calls - calls == (0 if num_kept else 1)
    calls = source.calls
    contents(reader, world, [3])
    assert source.calls - calls == expected - 1


def test_the_group_that_was_used_last_is_kept(world: Shards) -> None:
    source = FailingSource(LocalFiles(world.root))
    reader = ExampleReader({"pool": source}, cache_bytes=2 * 3 * (PICTURE_BYTES + 100))
    for index in (0, 3, 0, 6):  # three groups of which two are kept
        contents(reader, world, [index])
    calls = source.calls
    contents(reader, world, [0])
    assert source.calls == calls
    contents(reader, world, [3])
    assert source.calls == calls + 1


def test_the_tail_of_a_shard_with_a_large_footer_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    rows, table = one_column(tmp_path, pa.array(["a"]))
    wide = {f"column {'x' * 200} {number}": pa.array([number]) for number in range(400)}
    columns = pa.table({"image": pa.array([b"picture"]), "t": pa.array(["words"]), **wide})
    pq.write_table(columns, tmp_path / "p" / "0.parquet")
    assert pq.read_metadata(tmp_path / "p" / "0.parquet").serialized_size > TAIL_BYTES
    (example,) = ExampleReader({"pool": tmp_path}).read_rows(rows, table)
    assert (example.a, example.b) == (b"picture", b"words")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["ü"], type=pa.large_string()), "ü".encode()),
        (pa.array(["ü"], type=pa.string_view()), "ü".encode()),
        (pa.array(["ü"]).dictionary_encode(), "ü".encode()),
        (pa.array([b"\xff not UTF-8"]), b"\xff not UTF-8"),
        (pa.array([None], type=pa.string()), b""),
        (pa.array([b"four"], type=pa.binary(4)), b"four"),
        (pa.array([["one", "two"]]), b"one"),
        (pa.array([["one", "two"]], type=pa.large_list(pa.string())), b"one"),
    ],
)
def test_text_of_every_width_comes_back_as_stored(tmp_path: Path, column: pa.Array, expected: bytes) -> None:
    rows, table = one_column(tmp_path, column)
    assert [example.b for example in ExampleReader({"pool": tmp_path}).read_rows(rows, table)] == [expected]


def test_a_column_with_a_dot_in_its_name_is_not_nested(tmp_path: Path) -> None:
    rows, table = one_column(tmp_path, pa.array(["unused"]))
    columns = pa.table({"a.b": pa.array([b"picture"]), "m": pa.array([{"c": {"d": "deep"}}])})
    pq.write_table(columns, tmp_path / "p" / "0.parquet")
    named = replace(table, a_field="a.b", caption_field="m.c.d")
    (example,) = ExampleReader({"pool": tmp_path}).read_rows(rows, named)
    assert (example.a, example.b) == (b"picture", b"deep")


def test_a_picture_without_bytes_is_the_file_at_its_path(tmp_path: Path) -> None:
    rows, table = one_column(tmp_path, pa.array(["words"]))
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(b"from a file")
    for path, expected in (("pictures/0.png", b"from a file"), (None, b"")):
        column = pa.array([{"bytes": None, "path": path}], type=struct)
        pq.write_table(pa.table({"image": column, "t": pa.array(["words"])}), tmp_path / "p" / "0.parquet")
        (example,) = ExampleReader({"pool": tmp_path}).read_rows(rows, table)
        assert example.a == expected
    column = pa.array([{"bytes": None, "path": "../secret"}], type=struct)
    pq.write_table(pa.table({"image": column, "t": pa.array(["words"])}), tmp_path / "p" / "0.parquet")
    with pytest.raises(InvalidInput, match="relative path"):
        ExampleReader({"pool": tmp_path}).read_rows(rows, table)


@pytest.mark.parametrize(
    ("column", "places", "problem"),
    [
        (pa.array([7]), {}, "a int64 stands there"),
        (pa.array([["one"]]), {"caption_index": 3}, "IndexError"),
        (pa.array(["a"]), {"row_group": 4}, r"row_group must be in \[0, 1\); got 4"),
        (pa.array(["a"]), {"row_group": -1}, r"row_group must be in \[0, 1\); got -1"),
        (pa.array(["a"]), {"row_in_group": 1}, r"row_in_group must be in \[0, 1\); got 1"),
        (pa.array(["a"]), {"row_in_group": -1}, r"row_in_group must be in \[0, 1\); got -1"),
    ],
)
def test_a_row_that_is_not_there_is_an_error_with_its_place(
    tmp_path: Path, column: pa.Array, places: dict[str, object], problem: str
) -> None:
    rows, table = one_column(tmp_path, column, **places)
    reader = ExampleReader({"pool": tmp_path}, sleep=lambda _: None)
    with pytest.raises(UnreadableExample, match=rf"{problem}.*row 0, shard 0, pool:p/0\.parquet"):
        reader.read_rows(rows, table)


def test_a_column_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    rows, table = one_column(tmp_path, pa.array(["a"]))
    reader = ExampleReader({"pool": tmp_path}, sleep=lambda _: None)
    with pytest.raises(UnreadableExample, match=r"must have the column 'text'; got only \['image', 't'\]"):
        reader.read_rows(rows, replace(table, caption_field="text"))
    with pytest.raises(InvalidInput, match="column row_group must be an integer here; got null"):
        reader.read_rows(one_column(tmp_path, pa.array(["a"]), row_group=None)[0], table)


@pytest.mark.parametrize("damage", ["cut", "page", "footer", "empty", "gone"])
def test_damage_is_an_error_with_its_place_and_goes_away_with_it(world: Shards, damage: str) -> None:
    path = world.root / KEY
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[whole.index(PAIRS[0][4][0]) + 100] ^= 1
    replaced = {"cut": whole[: len(whole) // 2], "page": broken, "footer": whole[:-900] + b"\0" * 900, "empty": b""}
    path.unlink()
    if damage in replaced:
        path.write_bytes(replaced[damage])
    reader = ExampleReader({"pool": world.root}, sleep=lambda _: None)
    with pytest.raises(UnreadableExample, match=r"row 4, shard 0, pool:parquet/000000\.parquet, 4 tries"):
        contents(reader, world, [4])
    path.write_bytes(whole)
    assert contents(reader, world, [4]) == world.wanted([4])


def test_a_shard_restored_between_tries_is_read(world: Shards) -> None:
    path, pauses = world.root / KEY, []
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])

    def restore(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 2:
            path.write_bytes(whole)

    reader = ExampleReader({"pool": world.root}, sleep=restore)
    assert contents(reader, world, [4, 20]) == world.wanted([4, 20])
    assert len(pauses) == 2


def test_a_shard_replaced_while_it_is_read_is_noticed(world: Shards, tmp_path: Path) -> None:
    reader = ExampleReader({"pool": world.root}, sleep=lambda _: None, cache_bytes=0)
    assert contents(reader, world, [0]) == world.wanted([0])
    other = [[(a + b"longer", b) for a, b in rows] for rows in PAIRS]
    write_parquet(world.root, other, rows_per_group=5)  # other content, other groups, under the same name
    with pytest.raises((DigestMismatch, UnreadableExample), match=r"row 4, shard 0"):
        contents(reader, world, [4])
    write_parquet(world.root, PAIRS, compression="snappy")  # the same content in other bytes
    assert contents(reader, world, [4]) == world.wanted([4])


def test_a_shard_that_became_shorter_is_read_by_its_new_footer(tmp_path: Path) -> None:
    plain = [[(bytes([number]) * PICTURE_BYTES, f"caption {number}") for number in range(12)]]
    world = write_parquet(tmp_path, plain, compression="none")
    reader = ExampleReader({"pool": tmp_path}, sleep=lambda _: None)
    assert contents(reader, world, [0]) == world.wanted([0])
    write_parquet(tmp_path, plain, compression="zstd")
    assert (tmp_path / KEY).stat().st_size < 2 * PICTURE_BYTES
    assert contents(reader, world, [11, 0, 5]) == world.wanted([11, 0, 5])


def test_a_shard_whose_columns_changed_places_is_read_by_its_new_footer(tmp_path: Path) -> None:
    """By the old footer the other column would be read, without any damage to find."""
    _, table = one_column(tmp_path, pa.array(["words"]))
    columns = {"other": pa.array([b"XXXXXXX"]), "image": pa.array([b"picture"]), "t": pa.array(["words"])}
    world = Shards(tmp_path, table, [{"shard_id": 0, "sample_index": 0, "row_group": 0, "row_in_group": 0}], [])
    world.pairs.append((b"picture", b"words"))
    reader = ExampleReader({"pool": tmp_path}, sleep=lambda _: None, cache_bytes=0)
    for time_ns, names in enumerate((["other", "image", "t"], ["image", "other", "t"])):
        written = pa.table({name: columns[name] for name in names})
        pq.write_table(written, tmp_path / "p" / "0.parquet", compression="none", store_schema=False)
        os.utime(tmp_path / "p" / "0.parquet", ns=(0, time_ns))
        assert contents(reader, world, [0]) == world.wanted([0])
