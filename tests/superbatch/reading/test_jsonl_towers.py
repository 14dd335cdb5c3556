"""JSONL shards: files by path, fields of a line, and what stands there instead."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.errors import InvalidInput, UnreadableExample
from superbatch.formats.shards import ShardTable
from superbatch.reading import ExampleReader
from tests.superbatch.reading.shard_files import shard_table, write_jsonl

TABLE = shard_table(["rows.jsonl"], [2], format="jsonl", a_field="question", caption_field="answer")


def a_row(root: Path, line: object, **places: object) -> pa.RecordBatch:
    """A shard of some text and this line, and a batch of the line's row."""
    before, text = b'{"n": 0}\n', line if isinstance(line, bytes) else json.dumps(line).encode()
    (root / "rows.jsonl").write_bytes(before + text + b"\n")
    place = {"sample_offset": len(before), "sample_length": len(text), **places}
    head = {"batch_seq": 0, "slot": 0, "variant": 0, "uid": b"u" * 16}
    row = {**head, "dataset_index": 1, "shard_id": 0, "sample_index": 1, **place}
    return batch_rows({name: [value] for name, value in row.items()}).to_batches()[0]


def read(root: Path, rows: pa.RecordBatch, table: ShardTable = TABLE) -> tuple[bytes, bytes]:
    (example,) = ExampleReader({"pool": root}, sleep=lambda _: None).read_rows(rows, table)
    return example.a, example.b


def test_both_towers_may_stand_in_the_line(tmp_path: Path) -> None:
    line = {"question": "wo?", "answer": ["hier", "dört"]}
    assert read(tmp_path, a_row(tmp_path, line)) == (b"wo?", b"hier")
    assert read(tmp_path, a_row(tmp_path, line, caption_index=1)) == (b"wo?", "dört".encode())


def test_a_tower_without_path_and_field_is_missing_and_needs_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    rows = a_row(tmp_path, {}, a_path="a.png", sample_offset=None)
    assert read(tmp_path, rows, replace(TABLE, caption_field=None)) == (b"picture", b"")
    assert read(tmp_path, a_row(tmp_path, {"answer": "yes"}), replace(TABLE, a_field=None)) == (b"", b"yes")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{cut", "JSONDecodeError"),
        (b"[1]", "a list stands where an object with 'question' belongs"),
        ({"question": 7}, "a int stands there"),
        ({"answer": "no question"}, "KeyError"),
        ({"question": []}, "IndexError"),
        ({"question": "\ud800"}, "UnicodeEncodeError"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_a_line_without_text_is_an_error_with_its_place(tmp_path: Path, line: object, problem: str) -> None:
    with pytest.raises(
        UnreadableExample, match=rf"JSON field 'question'; .*{problem}.*row 1, shard 0, pool:rows\.jsonl"
    ):
        read(tmp_path, a_row(tmp_path, line))


def test_a_path_that_is_not_there_names_row_and_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableExample, match=r"row 1, shard 0, pool:pictures/a\.png, 4 tries"):
        read(tmp_path, a_row(tmp_path, {"answer": "yes"}, a_path="pictures/a.png"))
    with pytest.raises(InvalidInput, match="relative path"):
        read(tmp_path, a_row(tmp_path, {"answer": "yes"}, a_path="../a.png"))
    with pytest.raises(InvalidInput, match="column sample_offset must be an integer here; got null"):
        read(tmp_path, a_row(tmp_path, {}, sample_offset=None))


def test_a_file_too_large_for_an_example_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(UnreadableExample, match=r"at most 67108864 bytes; got 67108865 \(row 1"):
        read(tmp_path, a_row(tmp_path, {"answer": "yes"}, a_path="a.png"))


def test_the_files_of_rows_are_not_remembered(tmp_path: Path) -> None:
    world = write_jsonl(tmp_path, [[(b"picture", f"caption {number}") for number in range(40)]])
    reader = ExampleReader({"pool": tmp_path})
    reader.read_rows(world.batch([0]), world.table)
    size = len(pickle.dumps(reader))
    reader.read_rows(world.batch(range(40)), world.table)
    assert len(pickle.dumps(reader)) < size + 200
