"""The batch list: same bytes for the same batches, and a reader that proves what it returns."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.formats.batch_list import (
    BATCH_LIST_SCHEMA,
    BatchListReader,
    batch_rows,
    digest_of_rows,
    list_name,
    parse_list_name,
    read_uids,
    write_batch_list,
)
from superbatch.formats.digests import batch_digest
from superbatch.formats.errors import CorruptFile, DigestMismatch, InvalidInput, SuperbatchError, UnsupportedVersion
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_batch, uid_at

LIST = write_batch_list([a_batch(5), a_batch(6), a_batch(7)], fingerprint=FINGERPRINT)


def rewritten(
    data: bytes,
    *,
    metadata: dict[str, str] | None = None,
    columns: dict[str, pa.Array] | None = None,
    drop: tuple[str, ...] = (),
    group_rows: int = 4,
) -> bytes:
    """The same file after somebody else wrote it: changed metadata, replaced, further or dropped columns."""
    table = pq.read_table(io.BytesIO(data)).drop_columns(list(drop))
    for name, column in (columns or {}).items():
        position = table.schema.get_field_index(name)
        table = table.append_column(name, column) if position < 0 else table.set_column(position, name, column)
    stored = pq.read_metadata(io.BytesIO(data)).metadata
    merged = {**stored, **{key.encode(): value.encode() for key, value in (metadata or {}).items()}}
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(merged), out, row_group_size=group_rows)
    return out.getvalue()


def test_batches_come_back_as_they_were_written() -> None:
    reader = BatchListReader(LIST)
    assert (reader.first_seq, reader.num_batches, reader.b, reader.fingerprint) == (5, 3, 4, FINGERPRINT)
    for position in range(3):
        rows = reader.read(position)
        assert rows.schema.names == BATCH_LIST_SCHEMA.names
        assert pa.Table.from_batches([rows]).equals(a_batch(5 + position))


def test_the_file_states_the_digest_of_every_batch() -> None:
    by_hand = [batch_digest(FINGERPRINT, seq, [uid_at(seq, slot) for slot in range(4)], [0] * 4) for seq in (5, 6, 7)]
    assert list(BatchListReader(LIST).batch_digests) == by_hand
    assert digest_of_rows(a_batch(6), fingerprint=FINGERPRINT) == by_hand[1]


def test_the_same_batches_give_the_same_bytes() -> None:
    again = write_batch_list([a_batch(5), a_batch(6).to_batches()[0], a_batch(7)], fingerprint=FINGERPRINT)
    assert again == LIST
    chunked = pa.concat_tables([a_batch(5).slice(0, 1), a_batch(5).slice(1)])
    assert write_batch_list([chunked, a_batch(6), a_batch(7)], fingerprint=FINGERPRINT) == LIST


def test_one_row_group_is_one_batch_with_every_column_in_zstd() -> None:
    metadata = pq.read_metadata(io.BytesIO(LIST))
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 4, 4]
    columns = [metadata.row_group(0).column(column) for column in range(metadata.num_columns)]
    assert [column.path_in_schema for column in columns] == BATCH_LIST_SCHEMA.names
    assert {column.compression for column in columns} == {"ZSTD"}
    assert sorted(metadata.metadata) == [
        b"superbatch.batch_digests",
        b"superbatch.dataset_fingerprint",
        b"superbatch.file_kind",
        b"superbatch.format_version",
    ]


def test_columns_that_do_not_apply_are_null() -> None:
    rows = BatchListReader(LIST).read(0)
    for name in ("row_group", "row_in_group", "a_path", "b_path", "caption_index"):
        assert rows.column(name).null_count == 4


def test_a_path_is_read_like_bytes(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(LIST)
    assert BatchListReader(path).read(2).equals(BatchListReader(LIST).read(2))
    with pytest.raises(FileNotFoundError):
        BatchListReader(tmp_path / "none.parquet")


@settings(max_examples=20, deadline=None)
@given(b=st.integers(1, 9), num_batches=st.integers(1, 4), first_seq=st.integers(0, 1 << 40), data=st.data())
def test_any_list_reads_back(b: int, num_batches: int, first_seq: int, data: st.DataObject) -> None:
    scores = data.draw(
        st.lists(st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=b, max_size=b)
    )
    batches = [a_batch(first_seq + position, b, score=scores) for position in range(num_batches)]
    reader = BatchListReader(write_batch_list(batches, fingerprint=FINGERPRINT))
    assert [pa.Table.from_batches([reader.read(position)]) for position in range(num_batches)] == batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot": [0, 1, 3, 2]}, "slots must be 0 .. 3 in order"),
        ({"batch_seq": [5, 5, 5, 6]}, "all rows of this batch must have batch_seq 5"),
        ({"uid": [b"u" * 16] * 4}, "a uid must not be twice"),
        ({"variant": [0, 0, 0, -1]}, "variant must be at least 0"),
        ({"score": [0.0, float("nan"), 0.0, 0.0]}, "score must be finite"),
        ({"loss_learner": [0.0, float("inf"), 0.0, 0.0]}, "loss_learner must be finite"),
    ],
)
def test_a_batch_that_is_none_is_not_written(change: dict[str, list[object]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        write_batch_list([a_batch(5, **change)], fingerprint=FINGERPRINT)


def test_batches_of_a_list_follow_each_other_and_have_one_length() -> None:
    with pytest.raises(InvalidInput, match="batch_seq 6"):
        write_batch_list([a_batch(5), a_batch(7)], fingerprint=FINGERPRINT)
    with pytest.raises(InvalidInput, match="got 3 instead of 4"):
        write_batch_list([a_batch(5), a_batch(6, 3)], fingerprint=FINGERPRINT)
    with pytest.raises(InvalidInput, match="at least one batch"):
        write_batch_list([], fingerprint=FINGERPRINT)
    with pytest.raises(InvalidInput, match="at least one row"):
        write_batch_list([a_batch(5, 0)], fingerprint=FINGERPRINT)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"batch_seq": [0], "colour": ["red"]}, r"fixed columns; got \['colour'\]"),
        ({"batch_seq": [0]}, "column slot must be given"),
        ({"batch_seq": [None]}, "column batch_seq must be given"),
        ({"batch_seq": ["zero"]}, "column batch_seq must be int64"),
        ({"batch_seq": [0], "slot": [1 << 40]}, "column slot must be int32"),
        ({"batch_seq": [0], "slot": [0], "uid": [b"short"]}, "column uid must be"),
        ({"batch_seq": [0, 0], "slot": [0]}, "length|given"),
    ],
)
def test_rows_that_do_not_fit_are_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        batch_rows(columns)


def test_unknown_columns_and_a_newer_minor_version_are_ignored() -> None:
    further = rewritten(LIST, metadata={"superbatch.format_version": "1.7"}, columns={"mood": pa.array([1.5] * 12)})
    assert BatchListReader(further).read(1).equals(BatchListReader(LIST).read(1))


def test_an_unknown_major_version_is_refused() -> None:
    with pytest.raises(UnsupportedVersion, match=r"1\.x for this reader; got '2\.0'"):
        BatchListReader(rewritten(LIST, metadata={"superbatch.format_version": "2.0"}))


def test_changed_rows_do_not_have_their_digest() -> None:
    uids = [uid_at(5 + row // 4, row % 4) for row in range(12)]
    uids[9], uids[10] = uids[10], uids[9]
    reader = BatchListReader(rewritten(LIST, columns={"uid": pa.array(uids, pa.binary(16))}))
    reader.read(0)
    with pytest.raises(DigestMismatch, match="seq 7"):
        reader.read(2)
    variants = pa.array([0] * 5 + [1] + [0] * 6, pa.int8())
    with pytest.raises(DigestMismatch, match="seq 6"):
        BatchListReader(rewritten(LIST, columns={"variant": variants})).read(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ("uid",)}, "column uid must be fixed_size_binary"),
        ({"drop": ("chunk",)}, "column chunk must be int16; got none"),
        ({"columns": {"slot": pa.array(range(12), pa.int64())}}, "column slot must be int32; got int64"),
        ({"metadata": {"superbatch.file_kind": "score-shard"}}, "must be a batch-list"),
        ({"metadata": {"superbatch.dataset_fingerprint": "abc"}}, "64 hexadecimal digits"),
        ({"metadata": {"superbatch.batch_digests": "00" * 32}}, "one digest per row group; got 1 for 3"),
        ({"group_rows": 5}, "same number of rows|batch_seq"),
        ({"columns": {"slot": pa.array([0, 1, 2, 2] * 3, pa.int32())}}, "slots must be 0 .. 3"),
        ({"columns": {"shard_id": pa.array([None] * 12, pa.int32())}}, "shard_id must not be null"),
        ({"columns": {"batch_seq": pa.array([None] * 12, pa.int64())}}, "batch_seq"),
        ({"columns": {"variant": pa.array([-1] * 12, pa.int8())}}, "variant must be at least 0"),
    ],
)
def test_a_file_that_breaks_the_format_is_corrupt(change: dict[str, object], message: str) -> None:
    with pytest.raises(CorruptFile, match=message):
        BatchListReader(rewritten(LIST, **change)).read(0)  # type: ignore[arg-type]


def test_the_uids_of_all_batches_are_read_at_once() -> None:
    reader = BatchListReader(LIST)
    by_batch = [uid for i in range(reader.num_batches) for uid in reader.read(i).column("uid").to_pylist()]
    assert read_uids(LIST).to_pylist() == by_batch
    assert reader.num_batches > 1


def test_uids_on_a_damaged_page_are_our_own_error() -> None:
    found = LIST.find(BatchListReader(LIST).read(1).column("uid")[0].as_py())
    assert found > 0, "16 random bytes are stored as they are"
    damaged = LIST[:found] + bytes(16) + LIST[found + 16 :]
    with pytest.raises(CorruptFile, match="column uid must be readable"):
        read_uids(damaged)


def test_a_position_outside_the_list_is_refused() -> None:
    for position in (-1, 3):
        with pytest.raises(InvalidInput, match=r"\[0, 3\)"):
            BatchListReader(LIST).read(position)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_our_own_error_or_still_the_same_batches(data: st.DataObject) -> None:
    damaged = bytearray(LIST)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(LIST) - 1)) :]
    else:
        damaged[data.draw(st.integers(0, len(LIST) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        reader = BatchListReader(bytes(damaged))
        found = [reader.read(position).column("uid") for position in range(reader.num_batches)]
    except SuperbatchError:
        return
    assert found == [BatchListReader(LIST).read(position).column("uid") for position in range(3)]


@pytest.mark.parametrize("garbage", [b"", b"PAR1", b"PAR1PAR1", b"x" * 1000])
def test_garbage_is_a_corrupt_file(garbage: bytes) -> None:
    with pytest.raises(CorruptFile, match="whole Parquet file"):
        BatchListReader(garbage)


def test_names_of_lists() -> None:
    name = list_name(12, 14, "0123456789abcdef" * 4)
    assert name == "000000000012-000000000014-0123456789abcdef.parquet"
    assert parse_list_name(name) == parse_list_name("lists/" + name) == (12, 14, "0123456789abcdef")
    for first, stop, digest in ((2, 2, "0" * 64), (-1, 2, "0" * 64), (0, 10**12, "0" * 64), (0, 1, "0" * 16)):
        with pytest.raises(InvalidInput):
            list_name(first, stop, digest)
    for wrong in ("", "x.parquet", name + "x", "../" + name, name.upper()):
        with pytest.raises(InvalidInput):
            parse_list_name(wrong)
