"""One rule of rows: what registration counts, what the index pass finds and what a trainer reads are the same rows."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.tar import count_samples, iter_samples
from superbatch.reading import ExampleReader
from superbatch_server.workers.index import IndexSpec, IndexTable, raw_rows, read_index
from tests.superbatch.formats.sample_batches import a_shard_table

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FOLDERS = st.sampled_from(["", "./", "part/", "part/deep.er/", "n" * 120 + "/"])
STEMS = st.sampled_from(["0", "1", "ü", "__key__", "__x__y", ".hidden", "nodot", "a b"])
SUFFIXES = st.sampled_from(["png", "PNG", "jpg", "jpeg", "webp", "txt", "TXT", "json", "left.png", "", "."])
MEMBERS = st.tuples(FOLDERS, STEMS, SUFFIXES, st.sampled_from(["file", "file", "file", "folder", "link"]))


def _member(folder: str, stem: str, suffix: str, kind: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"{folder}{stem}.{suffix}" if suffix else f"{folder}{stem}")
    member.type = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[kind]
    member.linkname = "0.png" if kind == "link" else ""
    return member


def _index(data: bytes) -> IndexTable:
    spec, index = IndexSpec(), IndexTable(IndexSpec())
    for row in raw_rows(iter_samples(io.BytesIO(data), read=True, suffixes=spec.suffixes), spec):
        index.add(row)
    return index


def _require_one_rule(data: bytes, *, expected: int | None = None) -> None:
    """Count as registration does, index as a worker does, and read every row as a trainer does, uids checked."""
    index = _index(data)
    assert len(index) == count_samples(io.BytesIO(data))
    assert expected in (None, len(index))
    if not len(index):
        return
    found = read_index(index.render())
    numbers = list(range(len(index)))
    places = {name: found.column(name) for name in ("a_offset", "a_length", "b_offset", "b_length", "key")}
    zeros = {name: [0] * len(index) for name in ("batch_seq", "shard_id", "variant")}
    counted = dict.fromkeys(("slot", "dataset_index", "sample_index"), numbers)
    rows = batch_rows({**zeros, **counted, **places, "uid": found.column("uid")})
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "pool" / "000000.tar"
        shard.parent.mkdir()
        shard.write_bytes(data)
        reader = ExampleReader({"pool": folder}, check_uids=True)
        assert len(reader.read_rows(rows.to_batches()[0], a_shard_table(len(index)))) == len(index)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(MEMBERS, st.binary(max_size=600)), max_size=14), st.sampled_from(FORMATS))
def test_any_tar_has_the_same_rows_for_registration_index_and_trainer(
    members: list[tuple[tuple[str, str, str, str], bytes]], format: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for named, content in members:
            member = _member(*named)
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    _require_one_rule(out.getvalue())


@pytest.mark.parametrize("format", ["ustar", "gnu", "posix", "v7"])
def test_the_tars_of_the_tar_command(tmp_path: Path, format: str) -> None:
    """Nested folders, a picture without caption, a caption without picture, upper case, three kinds of pictures."""
    names = ["a/0.png", "a/0.txt", "a/1.JPG", "a/1.TXT", "a/b/2.jpeg", "a/b/3.txt", "4.webp", "4.txt", "a/readme"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode() * 90)
    (tmp_path / "in" / "a" / "5.png").symlink_to("0.png")
    made = tmp_path / "made.tar"
    command = ["tar", f"--format={format}", "--sort=name", "-cf", str(made), "-C", str(tmp_path / "in"), "."]
    subprocess.run(command, check=True)
    _require_one_rule(made.read_bytes(), expected=5)


def test_a_picture_of_several_kinds_is_one_row_and_a_second_picture_of_a_kind_begins_another() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("0.png", "0.jpg", "0.txt", "1.png", "1.PNG", "1.txt"):
            tar.addfile(tarfile.TarInfo(name))
    _require_one_rule(out.getvalue(), expected=3)
