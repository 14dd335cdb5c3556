"""Reading examples by byte range: few reads, exact bytes, never fewer rows."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.errors import DigestMismatch, InvalidInput, UnreadableExample
from superbatch.formats.shards import ShardTable
from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch.reading import ExampleReader
from superbatch.reading.local_files import LocalFiles
from superbatch.reading.ranges import MAX_RUN_BYTES
from tests.superbatch.formats.sample_batches import a_shard_table, a_tar
from tests.superbatch.reading.failing_source import FailingSource


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, ShardTable, pa.RecordBatch]:
    """Two shards of three pairs each, and a batch of four of their rows in no order."""
    rows = []
    for shard_id in range(2):
        files = []
        for number in range(3):
            caption = f"caption {shard_id}{number} \n".encode()
            files += [(f"{number}.png", bytes([shard_id, number]) * 400), (f"{number}.txt", caption)]
        path = tmp_path / "pool" / f"{shard_id:06d}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(a_tar(files))
        with path.open("rb") as stream:
            for sample in iter_samples(stream, read=True):
                png, txt = sample.members
                content = [sample.data[suffix] or b"" for suffix in ("png", "txt")]
                rows.append(
                    {
                        "dataset_index": 3 * shard_id + sample.sample_index,
                        "shard_id": shard_id,
                        "sample_index": sample.sample_index,
                        "uid": uid_of_bytes(*content),
                        "a_offset": png.offset,
                        "a_length": png.length,
                        "b_offset": txt.offset,
                        "b_length": txt.length,
                    }
                )
    chosen = [rows[index] for index in (4, 0, 5, 2)]
    columns = {name: [row[name] for row in chosen] for name in chosen[0]}
    table = batch_rows({**columns, "batch_seq": [0] * 4, "slot": [0, 1, 2, 3], "variant": [0, 0, 1, 0]})
    return tmp_path, a_shard_table(3, 3), table.to_batches()[0]


def with_column(rows: pa.RecordBatch, name: str, values: list[object]) -> pa.RecordBatch:
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    return batch_rows({**columns, name: values}).to_batches()[0]


def test_rows_come_back_in_slot_order_with_their_bytes(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    reader = ExampleReader({"pool": root}, check_uids=True)
    examples = reader.read_rows(rows, table)
    assert [example.dataset_index for example in examples] == [4, 0, 5, 2]
    assert [example.slot for example in examples] == [0, 1, 2, 3]
    assert [example.variant for example in examples] == [0, 0, 1, 0]
    assert [example.a for example in examples] == [bytes([i // 3, i % 3]) * 400 for i in (4, 0, 5, 2)]
    assert [example.b.decode() for example in examples] == [f"caption {i // 3}{i % 3} \n" for i in (4, 0, 5, 2)]
    assert [example.uid for example in examples] == rows.column("uid").to_pylist()


def test_a_slice_of_a_batch_reads_only_its_rows(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    reader = ExampleReader({"pool": str(root)})
    whole = reader.read_rows(rows, table)
    assert [*reader.read_rows(rows.slice(0, 2), table), *reader.read_rows(rows.slice(2), table)] == whole
    assert reader.read_rows(rows.slice(0, 0), table) == []


def test_near_ranges_become_one_read_and_bytes_are_counted(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    source = FailingSource(LocalFiles(root))
    reader = ExampleReader({"pool": source})
    reader.read_rows(rows, table)
    assert source.calls == 2
    assert reader.bytes_used == 4 * (800 + 12)
    # A sample takes 2,560 bytes of tar, its picture begins at 512 and its caption at 2,048. Shard 0 is read from the
    # picture of sample 0 to the caption of sample 2, shard 1 from that of sample 1 to that of sample 2.
    assert reader.bytes_read == (2 * 2560 + 2048 + 12 - 512) + (2560 + 2048 + 12 - 512)
    apart = ExampleReader({"pool": root}, gap_bytes=0)
    assert apart.read_rows(rows, table) == reader.read_rows(rows, table)
    assert apart.bytes_read == apart.bytes_used == 4 * 812


def test_a_failed_read_is_tried_again_with_growing_pauses(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    pauses: list[float] = []
    source = FailingSource(LocalFiles(root), failures=3)
    reader = ExampleReader({"pool": source}, sleep=pauses.append)
    assert len(reader.read_rows(rows, table)) == 4
    assert pauses == pytest.approx([0.1, 0.4, 1.6])


@pytest.mark.parametrize("num_attempts", [1, 2, 5])
def test_a_lasting_failure_is_tried_as_often_as_told(
    world: tuple[Path, ShardTable, pa.RecordBatch], num_attempts: int
) -> None:
    root, table, rows = world
    pauses: list[float] = []
    source = FailingSource(LocalFiles(root), failures=100)
    with pytest.raises(UnreadableExample, match=f"connection reset.*{num_attempts} tries"):
        ExampleReader({"pool": source}, num_attempts=num_attempts, sleep=pauses.append).read_rows(rows, table)
    assert len(pauses) == num_attempts - 1
    assert source.calls == num_attempts + 1  # the last by the single row, which finds out which one it is


def test_after_all_tries_the_row_is_an_error_and_never_missing(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    (root / "pool" / "000001.tar").unlink()
    reader = ExampleReader({"pool": root}, num_attempts=2, sleep=lambda _: None)
    with pytest.raises(UnreadableExample, match=r"shard 1, pool:pool/000001\.tar, 2 tries"):
        reader.read_rows(rows, table)
    (root / "pool" / "000001.tar").write_bytes(b"short")
    with pytest.raises(UnreadableExample, match="ends before byte"):
        reader.read_rows(rows, table)


def test_changed_content_is_found_on_demand(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    path = root / "pool" / "000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert len(ExampleReader({"pool": root}).read_rows(rows, table)) == 4
    with pytest.raises(DigestMismatch, match=r"row 0, shard 0, pool:pool/000000\.tar"):
        ExampleReader({"pool": root}, check_uids=True).read_rows(rows, table)


def test_a_missing_tower_is_empty(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    alone = with_column(with_column(rows, "b_offset", [None] * 4), "b_length", [None] * 4)
    assert [example.b for example in ExampleReader({"pool": root}).read_rows(alone, table)] == [b""] * 4


def test_a_caption_may_stand_in_a_field_of_a_json_member(tmp_path: Path) -> None:
    members = [json.dumps({"caption": value}).encode() for value in ("ein Fuß ", ["one", "two"], 7)]
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "000000.tar").write_bytes(a_tar([(f"{i}.json", member) for i, member in enumerate(members)]))
    with (tmp_path / "pool" / "000000.tar").open("rb") as stream:
        places = [sample.members[0] for sample in iter_samples(stream)]
    table = replace(a_shard_table(3), caption_field="json:caption")

    def caption(row: int, caption_index: int | None) -> bytes:
        place = {"dataset_index": [row], "sample_index": [row], "shard_id": [0], "caption_index": [caption_index]}
        content = {"uid": [b"u" * 16], "b_offset": [places[row].offset], "b_length": [places[row].length]}
        rows = batch_rows({"batch_seq": [0], "slot": [0], "variant": [0], **place, **content})
        return ExampleReader({"pool": tmp_path}).read_rows(rows.to_batches()[0], table)[0].b

    assert caption(0, None) == "ein Fuß ".encode()
    assert (caption(1, 0), caption(1, 1)) == (b"one", b"two")
    for row, index in ((2, None), (1, 5)):
        with pytest.raises(UnreadableExample, match=rf"JSON field 'caption'.*row {row}"):
            caption(row, index)


def test_what_cannot_be_read_is_refused_before_any_read(world: tuple[Path, ShardTable, pa.RecordBatch]) -> None:
    root, table, rows = world
    with pytest.raises(InvalidInput, match="needs a place to read from; got none for 'pool'"):
        ExampleReader({}).read_rows(rows, table)
    with pytest.raises(InvalidInput, match=r"shard_id must be in \[0, 1\); got 1"):
        ExampleReader({"pool": root}).read_rows(rows, a_shard_table(6))
    with pytest.raises(InvalidInput, match=r"shard_id must be in \[0, 2\); got -1"):
        ExampleReader({"pool": root}).read_rows(with_column(rows, "shard_id", [-1] * 4), table)
    parquet = replace(table, shards=tuple(replace(shard, format="parquet") for shard in table.shards))
    with pytest.raises(InvalidInput, match="names the column of tower a; got null"):
        ExampleReader({"pool": root}).read_rows(rows, parquet)
    outside = replace(table, shards=tuple(replace(shard, key="../secret") for shard in table.shards))
    with pytest.raises(InvalidInput, match="relative path"):
        ExampleReader({"pool": root}).read_rows(rows, outside)
    with pytest.raises(InvalidInput, match="column a_length must be an integer here"):
        ExampleReader({"pool": root}).read_rows(with_column(rows, "a_length", [None] * 4), table)
    with pytest.raises(InvalidInput, match="must not be negative"):
        ExampleReader({"pool": root}).read_rows(with_column(rows, "a_length", [-1] * 4), table)
    with pytest.raises(InvalidInput, match="num_attempts"):
        ExampleReader({"pool": root}, num_attempts=0)


def test_scattered_rows_of_a_large_shard_are_not_all_read_at_once(tmp_path: Path) -> None:
    """Small rows 500 KiB apart join into runs that cover the shard: 200 MiB for 2 MiB of rows."""
    shard, apart, count = tmp_path / "pool" / "000000.tar", 500 << 10, 400
    shard.parent.mkdir()
    with shard.open("wb") as file:
        file.truncate(apart * count)
    numbers = list(range(count))
    table = batch_rows(
        {
            **{name: [0] * count for name in ("batch_seq", "shard_id", "variant")},
            **dict.fromkeys(("slot", "dataset_index", "sample_index"), numbers),
            "uid": [number.to_bytes(16, "big") for number in numbers],
            "a_offset": [apart * number for number in numbers],
            "a_length": [5000] * count,
        }
    )
    reader = ExampleReader({"pool": tmp_path}, gap_bytes=512 << 10)
    tracemalloc.start()
    try:
        examples = reader.read_rows(table.to_batches()[0], a_shard_table(count))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(example.a) for example in examples] == [5000] * count
    assert reader.bytes_read > 190 << 20
    assert peak_bytes < 3 * MAX_RUN_BYTES
