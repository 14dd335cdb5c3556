"""Manifest, segments, shard table and the files of a bucket: "
"whole round trips, and one clear error per broken field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from superbatch.formats.bucket import LOG_END_NAME, LogEnd, LogHead, LogSegment, log_segment_name
from superbatch.formats.canonical import canonical_json
from superbatch.formats.errors import CorruptFile, InvalidInput, UnsupportedVersion
from superbatch.formats.manifest import Manifest
from superbatch.formats.segments import Segment
from superbatch.formats.shards import ShardTable
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_manifest, a_segment, a_shard_table

MISSING = object()


def changed(document: Any, path: str, value: object) -> bytes:
    """The JSON of a document with the field at `path` ("a.0.b") replaced or, by MISSING, dropped."""
    tree = json.loads(canonical_json(document.to_json()))
    place = tree
    *folders, last = path.split(".")
    for name in folders:
        place = place[int(name) if isinstance(place, list) else name]
    if value is MISSING:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(tree).encode()


def test_a_manifest_comes_back_as_it_was() -> None:
    manifest = a_manifest()
    assert Manifest.from_json(canonical_json(manifest.to_json())) == manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_manifest_spells_the_fields_of_the_contract() -> None:
    written = a_manifest().to_json()
    assert " ".join(written) == (
        "format_version job history_id dataset_fingerprint shard_table policy reference_digest eligible_digest "
        "numerics_profile oldest_seq next_seq end final_seq segments revoked next"
    )
    segment = a_segment().to_json()
    assert " ".join(segment) == (
        "first_seq num_batches f B list bytes sha256 generation scored_with rule log_digest_end"
    )
    assert written["numerics_profile"] == {"digest": "06" * 32, "torch": "2.13.0", "threads": 2}
    assert len(canonical_json(written)) < 64 << 10


def test_what_does_not_apply_is_null() -> None:
    written = json.loads(canonical_json(a_manifest().to_json()))
    for name in ("reference_digest", "eligible_digest", "numerics_profile", "end", "final_seq", "next"):
        written[name] = None
    written["policy"]["criterion"] = None
    written["segments"][0] |= {"scored_with": None, "rule": "uniform"}
    manifest = Manifest.from_json(written)
    assert (manifest.end, manifest.next_link, manifest.policy.criterion) == (None, None, None)
    assert (manifest.segments[0].scored_with, manifest.segments[0].rule) == (None, "uniform")
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_policy_of_an_older_service_lacks_what_it_did_not_know() -> None:
    written = json.loads(canonical_json(a_manifest().to_json()))
    later = ("loss", "precision", "first_round", "probe_size", "repetition_cap", "max_cosine")
    for name in later:
        del written["policy"][name]
    manifest = Manifest.from_json(written)
    assert [getattr(manifest.policy, name) for name in later] == [None] * 6
    assert manifest.to_json() == written


def test_unknown_keys_and_a_newer_minor_version_are_ignored() -> None:
    later = json.loads(canonical_json(a_manifest().to_json()))
    later["format_version"] = "1.9"
    later["mood"] = {"deep": [1]}
    later["segments"][0]["colour"] = "red"
    assert Manifest.from_json(later) == a_manifest()


@pytest.mark.parametrize("document", [a_manifest(), a_shard_table(2, 3)])
def test_an_unknown_major_version_is_refused(document: Any) -> None:
    with pytest.raises(UnsupportedVersion, match=r"'2\.0'"):
        type(document).from_json(changed(document, "format_version", "2.0"))
    with pytest.raises(CorruptFile, match="format_version must be present"):
        type(document).from_json(changed(document, "format_version", MISSING))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("job", MISSING, "field job must be present"),
        ("job", 3, "field job must be a string; got 3"),
        ("dataset_fingerprint", "AB" * 32, "64 lower-case hexadecimal"),
        ("next_seq", -1, "an integer of at least 0; got -1"),
        ("next_seq", True, "an integer of at least 0; got True"),
        ("next_seq", 2.0, "an integer of at least 0; got 2.0"),
        ("end", "exploded", "one of complete, cancelled, failed"),
        ("final_seq", None, "final_seq must be given once end is"),
        ("segments", {}, "field segments must be a list"),
        ("segments.1.sha256", "x", r"field sha256 .* \(manifest, segments\[1\]\)"),
        ("segments.1.num_batches", 0, "at least 1; got 0"),
        ("segments.0.f", [0.8], "a list of 2"),
        ("segments.0.B.1", "many", r"field B\[1\] must be an integer"),
        ("segments.0.f.0", None, r"field f\[0\] must be a finite number"),
        ("segments.0.scored_with", [], "a JSON object is needed"),
        ("segments.0.scored_with.trained_seq", None, "field trained_seq"),
        ("policy.f", "high", "field f must be a finite number"),
        ("policy.method", 7, "field method must be a string"),
        ("policy.b", 0, "at least 1"),
        ("policy.max_cosine", "near", "field max_cosine must be a finite number"),
        ("policy.repetition_cap", 1.5, "field repetition_cap must be an integer"),
        ("policy", None, "a JSON object is needed; got None"),
        ("revoked.0.reason", MISSING, r"reason must be present; got none \(manifest, revoked\[0\]\)"),
    ],
)
def test_a_broken_field_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(CorruptFile, match=message):
        Manifest.from_json(changed(a_manifest(), path, value))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"3", b"{"])
def test_what_is_no_object_is_corrupt(text: bytes) -> None:
    for kind in (Manifest, Segment, ShardTable):
        with pytest.raises(CorruptFile):
            kind.from_json(text)


def test_staleness_counts_from_the_scoring_checkpoint() -> None:
    segment = a_segment(first_seq=12)
    assert (segment.stop_seq, segment.staleness(13)) == (14, 13)
    without = Segment.from_json({**segment.to_json(), "scored_with": None, "rule": "easy_reference"})
    assert without.staleness(13) is None


def test_a_segment_has_one_ratio_per_batch() -> None:
    with pytest.raises(InvalidInput, match=r"got 1, 2 \(smallest B \d+\) for 2"):
        Segment(**{**{name: getattr(a_segment(), name) for name in Segment.__slots__}, "f": (0.8,)})


def test_a_shard_table_comes_back_and_finds_rows() -> None:
    table = a_shard_table(3, 0, 2)
    assert ShardTable.from_json(canonical_json(table.to_json())) == table
    assert table.num_rows == 5
    assert [table.shard_of(index).shard_id for index in range(5)] == [0, 0, 0, 2, 2]
    for index in (-1, 5):
        with pytest.raises(InvalidInput, match=r"\[0, 5\)"):
            table.shard_of(index)
    assert a_shard_table().num_rows == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("shards.1.shard_id", 2, "numbered from 0"),
        ("shards.1.start_index", 2, "without a gap; got shard_id 1 with start_index 2 where 1 and 3 belong"),
        ("shards.0.rows", 4, "without a gap"),
        ("shards.0.key", "../secret", "relative path"),
        ("shards.0.key", "/etc/passwd", "relative path"),
        ("shards.0.format", "zip", "one of webdataset, parquet, jsonl"),
        ("shards.0.fingerprint", "00", "64 lower-case hexadecimal"),
        ("kind_a", None, "kind_a must be a string"),
        ("shards.0.source", MISSING, "source must be present"),
    ],
)
def test_a_broken_shard_table_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(CorruptFile, match=message):
        ShardTable.from_json(changed(a_shard_table(3, 2), path, value))


def test_the_log_in_a_bucket_has_names_that_can_be_guessed() -> None:
    assert log_segment_name(0) == "log/000000000000.json"
    assert log_segment_name(123456) == "log/000000123456.json"
    assert LOG_END_NAME == "log/end.json"
    for seq in (-1, 10**12):
        with pytest.raises(InvalidInput):
            log_segment_name(seq)


def test_a_log_segment_is_always_the_same_bytes() -> None:
    file = LogSegment("job_1", "h1", FINGERPRINT.hex(), "07" * 32, a_segment(4))
    assert file.name == "log/000000000004.json"
    assert file.render() == LogSegment.parse(file.render()).render()
    assert LogSegment.parse(file.render()) == file
    assert json.loads(file.render())["segment"] == json.loads(canonical_json(a_segment(4).to_json()))


def test_the_head_of_a_log_comes_back() -> None:
    head = LogHead("job_1", "h1", FINGERPRINT.hex(), None, a_manifest().policy)
    assert LogHead.parse(head.render()) == head
    with pytest.raises(CorruptFile, match="policy must be"):
        LogHead.parse(head.render().replace(b'"policy"', b'"polity"'))
    with pytest.raises(UnsupportedVersion):
        LogHead.parse(head.render().replace(b'"1.0"', b'"3.0"'))


def test_the_end_of_a_log_comes_back() -> None:
    end = LogEnd("job_1", "h1", "cancelled", 4, "08" * 32)
    assert LogEnd.parse(end.render()) == end
    with pytest.raises(CorruptFile, match="one of complete"):
        LogEnd.parse(end.render().replace(b"cancelled", b"bored"))
    with pytest.raises(UnsupportedVersion):
        LogEnd.parse(end.render().replace(b'"1.0"', b'"3.0"'))


def test_a_segment_looks_at_candidates() -> None:
    with pytest.raises(InvalidInput, match=r"one B >= 1 .* \(smallest B 0\)"):
        Segment(**{**{name: getattr(a_segment(), name) for name in Segment.__slots__}, "B": (640, 0)})


@pytest.mark.parametrize("counts", [{"next_seq": 3, "final_seq": 3}, {"final_seq": 5}, {"end": None, "next_seq": 2}])
def test_a_manifest_whose_counts_contradict_each_other_is_refused(counts: dict[str, int | None]) -> None:
    with pytest.raises(CorruptFile, match="next_seq must be the end of the segments"):
        Manifest.from_json({**a_manifest().to_json(), **counts})
