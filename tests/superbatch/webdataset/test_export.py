"""A job as a folder of tars: complete, the same however often it was interrupted, and of one layout only."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest

from superbatch.conformance.faults import BrokenFiles, Fault
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.formats.errors import CorruptFile, InvalidInput, UnreadableExample
from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch.reading import Example
from superbatch.webdataset.export import ReadRows, export_tars
from superbatch.webdataset.layout import TarLayout, seq_of_key, tar_name
from superbatch.webdataset.tar_folder import LAYOUT_NAME, Origin, TarFolder
from tests.superbatch.webdataset.conftest import Export, OpenLog


def uids_of_tar(path: Path) -> list[bytes]:
    """The uid of each sample, from its bytes; it must be the one in its key."""
    uids = []
    for sample in iter_samples(io.BytesIO(path.read_bytes()), read=True):
        picture, caption = (content or b"" for content in sample.data.values())
        uids.append(uid_of_bytes(picture, caption))
        assert seq_of_key(sample.key)[2] == uids[-1]
    return uids


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (3, 2)])
def test_every_tar_holds_its_slots_of_its_batch(
    export: Export, job: SampleJob, tmp_path: Path, world_size: int, accumulation: int
) -> None:
    folder = export(tmp_path, world_size=world_size, accumulation=accumulation)

    layout = TarLayout(job.b, world_size, accumulation)
    for index in layout.tar_indices(0, 24):
        part = layout.part_of(index)
        wanted = job.batches[part.seq][part.slots.start : part.slots.stop]
        assert uids_of_tar(folder / tar_name(index)) == list(wanted)
    sizes = json.loads((folder / "sizes.json").read_text())
    assert sizes == {tar_name(index): layout.rows_per_tar for index in layout.tar_indices(0, 24)}


def test_an_interrupted_export_goes_on_and_gives_the_same_bytes(
    export: Export, open_log: OpenLog, read_rows: ReadRows, job: SampleJob, tmp_path: Path
) -> None:
    whole = digests(export(tmp_path / "whole", world_size=2))
    calls = 0

    def reads_until_interrupted(rows: pa.RecordBatch) -> Sequence[Example]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return read_rows(rows)

    tars = TarFolder(tmp_path / "cut", layout=TarLayout(job.b, 2), origin=Origin(JOB, job.history_id))
    with pytest.raises(KeyboardInterrupt):
        list(export_tars(open_log(), reads_until_interrupted, tars))
    (tmp_path / "cut" / tar_name(3)).unlink()  # the other tar of that batch stays
    calls = -100
    done = list(export_tars(open_log(), reads_until_interrupted, tars))

    assert calls == -100 + 1 + 19, "a batch that is there is not read again"
    assert [each.num_written for each in done] == [0, 1, 0, 0, 0] + [2] * 19
    assert digests(tmp_path / "cut") == whole


def test_two_exports_at_once_write_the_same_tars(
    export: Export, open_log: OpenLog, read_rows: ReadRows, job: SampleJob, tmp_path: Path
) -> None:
    whole = digests(export(tmp_path / "whole", world_size=2))
    folders = [
        TarFolder(tmp_path / "both", layout=TarLayout(job.b, 2), origin=Origin(JOB, job.history_id)) for _ in range(2)
    ]
    for _ in zip(*(export_tars(open_log(), read_rows, folder) for folder in folders), strict=True):
        pass
    assert digests(tmp_path / "both") == whole


def test_a_row_that_cannot_be_read_leaves_no_tar_of_its_batch(
    open_log: OpenLog, read_rows: ReadRows, job: SampleJob, tmp_path: Path
) -> None:
    tars = TarFolder(tmp_path, layout=TarLayout(job.b, 2), origin=Origin(JOB, job.history_id))
    with BrokenFiles(job, Fault.LOST_SHARD), pytest.raises(UnreadableExample):
        list(export_tars(open_log(), read_rows, tars))

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {LAYOUT_NAME, *map(tar_name, range(2 * job.late_seq))}, "neither a part nor a later tar"
    list(export_tars(open_log(), read_rows, tars))
    assert tars.has(47)


def test_a_tar_that_is_there_is_never_written_again(tmp_path: Path) -> None:
    tars = TarFolder(tmp_path, layout=TarLayout(8, 2), origin=Origin("job_1", "h1"))
    tars.put(0, lambda file: file.write(b"first"))
    tars.put(0, lambda file: file.write(b"second"))
    assert (tmp_path / tar_name(0)).read_bytes() == b"first"


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    tars = TarFolder(tmp_path, layout=TarLayout(8, 2), origin=Origin("job_1", "h1"))

    def writes_while_another_finishes(file: BinaryIO) -> int:
        (tmp_path / tar_name(0)).write_bytes(b"first")
        return file.write(b"second")

    tars.put(0, writes_while_another_finishes)
    assert (tmp_path / tar_name(0)).read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [tar_name(0), LAYOUT_NAME]


@pytest.mark.parametrize(
    ("layout", "origin", "got"),
    [
        (TarLayout(8, 4), Origin("job_1", "h1"), "world_size 2 instead of 4"),
        (TarLayout(8, 2, 2), Origin("job_1", "h1"), "accumulation 1 instead of 2"),
        (TarLayout(8, 2), Origin("job_2", "h1"), "job 'job_1' instead of 'job_2'"),
        (TarLayout(8, 2), Origin("job_1", "h2"), "history_id 'h1' instead of 'h2'"),
        (TarLayout(8, 2), Origin("job_1", "h1", with_metadata=True), "with_metadata False"),
    ],
)
def test_a_folder_of_another_job_or_layout_is_refused(
    tmp_path: Path, layout: TarLayout, origin: Origin, got: str
) -> None:
    TarFolder(tmp_path, layout=TarLayout(8, 2), origin=Origin("job_1", "h1"))
    with pytest.raises(InvalidInput, match=got):
        TarFolder(tmp_path, layout=layout, origin=origin)


def test_a_damaged_note_of_the_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / LAYOUT_NAME).write_bytes(b"{")
    with pytest.raises(CorruptFile):
        TarFolder(tmp_path, layout=TarLayout(8, 2), origin=Origin("job_1", "h1"))


def test_batches_of_another_size_are_refused(open_log: OpenLog, read_rows: ReadRows, tmp_path: Path) -> None:
    tars = TarFolder(tmp_path, layout=TarLayout(6, 2), origin=Origin(JOB, "h1"))
    with pytest.raises(InvalidInput, match="must have 6 rows; got 12"):
        list(export_tars(open_log(), read_rows, tars))
