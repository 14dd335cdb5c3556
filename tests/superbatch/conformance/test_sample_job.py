"""The sample job is in the real formats, and what the faults rely on holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from superbatch.conformance.faults import BrokenFiles, Fault
from superbatch.conformance.sample_job import HISTORY, JOB, SampleJob, make_job
from superbatch.conformance.sample_shards import ROOT, tiny_png
from superbatch.formats.batch_list import BatchListReader, parse_list_name
from superbatch.formats.digests import log_digest_start, next_log_digest
from superbatch.formats.errors import CorruptFile, InvalidInput, UnreadableExample
from superbatch.reading import ExampleReader
from superbatch.tiny.picture import open_picture, read_caption


def test_every_list_is_read_and_proven_and_the_chain_closes(sample_job: SampleJob) -> None:
    digest, seq = log_digest_start(JOB, HISTORY), 0
    for segment in sample_job.segments:
        reader = BatchListReader(sample_job.lists[segment.list_link.rpartition("/")[2]])
        assert parse_list_name(segment.list_link)[:2] == (segment.first_seq, segment.stop_seq)
        for position, batch_digest in enumerate(reader.batch_digests):
            assert tuple(reader.read(position).column("uid").to_pylist()) == sample_job.batches[seq]
            digest, seq = next_log_digest(digest, batch_digest), seq + 1
            assert sample_job.state_at(seq)["log_digest"] == digest.hex()
        assert segment.log_digest_end == digest.hex()
    assert seq == len(sample_job.batches) == 12


def test_every_row_is_a_picture_with_a_caption_under_its_uid(sample_job: SampleJob) -> None:
    reader = ExampleReader({ROOT: sample_job.folder}, check_uids=True)
    for content in sample_job.lists.values():
        rows = BatchListReader(content).read(0)
        for example in reader.read_rows(rows, sample_job.shard_table):
            assert open_picture(example.a).size == (16, 16)
            assert "picture number" in read_caption(example.b)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other, third = (
        make_job(tmp_path / name, num_batches=6, b=4, seed=seed) for name, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert one.lists == other.lists
    assert one.late_shard().read_bytes() == other.late_shard().read_bytes()
    assert one.batches != third.batches
    assert tiny_png(b"x") == tiny_png(b"x") != tiny_png(b"y")


def test_the_late_shard_and_the_fragile_row_are_where_they_are_said_to_be(sample_job: SampleJob) -> None:
    late = len(sample_job.shard_table.shards) - 1
    used = []
    for content in sample_job.lists.values():
        reader = BatchListReader(content)
        used += [set(reader.read(position).column("shard_id").to_pylist()) for position in range(reader.num_batches)]
    assert [seq for seq, shards in enumerate(used) if late in shards] == list(range(sample_job.late_seq, 12))
    holders = [seq for seq, uids in enumerate(sample_job.batches) if sample_job.fragile.uid in uids]
    assert holders == [sample_job.fragile_seq]
    assert sample_job.batches[sample_job.fragile_seq][-2] == sample_job.fragile.uid


def test_another_history_differs_in_the_chain_alone(sample_job: SampleJob) -> None:
    anew = sample_job.begun_anew("h2")
    assert anew.lists == sample_job.lists
    assert [segment.list_link for segment in anew.segments] == [segment.list_link for segment in sample_job.segments]
    assert not set(anew.log_digests) & set(sample_job.log_digests)
    assert anew.begun_anew(HISTORY) == sample_job


def test_too_small_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least 6 batches of 2 rows; got 5 of 16"):
        make_job(tmp_path, num_batches=5, b=16)


@pytest.mark.parametrize("fault", [Fault.CORRUPT_PICTURE, Fault.LOST_SHARD, Fault.MISSING_SHARD])
def test_what_a_fault_breaks_is_as_before_when_it_is_mended(sample_job: SampleJob, fault: Fault) -> None:
    reader = ExampleReader({ROOT: sample_job.folder}, check_uids=True, num_attempts=1)
    seq = fault.stops_at(sample_job) if fault.is_stopping else sample_job.late_seq
    segment = next(each for each in sample_job.segments if each.first_seq <= seq < each.stop_seq)
    rows = BatchListReader(sample_job.lists[segment.list_link.rpartition("/")[2]]).read(seq - segment.first_seq)
    before = reader.read_rows(rows, sample_job.shard_table)
    with BrokenFiles(sample_job, fault) as files:
        with pytest.raises((UnreadableExample, CorruptFile)):
            reader.read_rows(rows, sample_job.shard_table)
        files.mend()
        assert reader.read_rows(rows, sample_job.shard_table) == before
    assert reader.read_rows(rows, sample_job.shard_table) == before
