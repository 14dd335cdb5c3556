"""Every digest against its formula, written out by hand with hashlib."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.canonical import canonical_json, parse_json
from superbatch.formats.digests import (
    batch_digest,
    dataset_fingerprint,
    eligible_bitmap,
    eligible_digest,
    exclusions_digest,
    log_digest_start,
    next_log_digest,
    weak_shard_fingerprint,
)
from superbatch.formats.errors import CorruptFile, InvalidInput
from superbatch.formats.uid import row_uid, uid_of_bytes

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "\\ud" not in json.dumps(value))


def test_uid_is_the_head_of_the_digest_of_both_digests() -> None:
    a, b = b"\x89PNG", "ein Fuß\n".encode()
    by_hand = sha256(b"superbatch-uid-v1\x00" + sha256(a).digest() + sha256(b).digest()).digest()[:16]
    assert uid_of_bytes(a, b) == by_hand == row_uid(sha256(a).digest(), sha256(b).digest())
    assert len({uid_of_bytes(a, b), uid_of_bytes(b, a), uid_of_bytes(a, b""), uid_of_bytes(b"", b)}) == 4


def test_uid_golden_value() -> None:
    assert uid_of_bytes(b"", b"").hex() == "7d755694a8bfe96440dc152b0f8e8b67"


def test_uid_refuses_hexadecimal_text() -> None:
    with pytest.raises(InvalidInput, match="32 bytes; got 64"):
        row_uid(sha256(b"").hexdigest().encode(), sha256(b"").digest())


def test_weak_fingerprint_takes_the_etag_else_size_and_time() -> None:
    local = weak_shard_fingerprint("pool", "a/0.tar", etag=None, size=10240, mtime_ns=17)
    assert local == sha256(b"superbatch-weak-v1\x00pool\x00a/0.tar\x0010240:17").digest()
    remote = weak_shard_fingerprint("pool", "a/0.tar", etag='"e1"', size=10240, mtime_ns=17)
    assert remote == sha256(b'superbatch-weak-v1\x00pool\x00a/0.tar\x00"e1"').digest()
    with pytest.raises(InvalidInput, match="zero byte"):
        weak_shard_fingerprint("pool\0a", "0.tar", etag=None, size=1, mtime_ns=1)


def test_dataset_fingerprint_is_canonical_json_and_the_shards_in_order() -> None:
    one, two = sha256(b"1").digest(), sha256(b"2").digest()
    found = dataset_fingerprint(
        format="webdataset", towers={"b": "text", "a": "image"}, caption_field="txt", shard_fingerprints=[one, two]
    )
    head = b'{"caption_field":"txt","format":"webdataset","towers":{"a":"image","b":"text"}}'
    assert found == sha256(b"superbatch-dataset-v1\x00" + head + one + two).digest()
    with pytest.raises(InvalidInput, match="shard fingerprint has 32 bytes"):
        dataset_fingerprint(format="jsonl", towers={}, caption_field=None, shard_fingerprints=[b"short"])


def test_eligible_bits_are_least_significant_first() -> None:
    assert eligible_bitmap([True] + [False] * 8) == b"\x01\x00"
    assert eligible_bitmap([False] * 8 + [True]) == b"\x00\x01"
    assert eligible_bitmap([]) == b""
    fingerprint = sha256(b"d").digest()
    by_hand = sha256(b"superbatch-eligible-v1\x00" + fingerprint + b"\x05\x01").digest()
    rows = [True, False, True, False, False, False, False, False, True]
    assert eligible_digest(fingerprint, rows) == by_hand == eligible_digest(fingerprint, b"\x05\x01")


def test_excluded_rows_are_a_set_in_ascending_order() -> None:
    low, high = bytes(15) + b"\x07", b"\x80" + bytes(15)
    by_hand = sha256(b"superbatch-exclusions-v1\x00" + low + high).digest()
    assert exclusions_digest([high, low, high]) == by_hand == exclusions_digest([low, high])
    with pytest.raises(InvalidInput, match="a uid has 16 bytes; got 32"):
        exclusions_digest([low.hex().encode()])


@given(st.lists(st.booleans(), max_size=40))
def test_eligible_bitmap_can_be_read_back(rows: list[bool]) -> None:
    bits = eligible_bitmap(rows)
    assert [bool(bits[i // 8] >> (i % 8) & 1) for i in range(len(rows))] == rows
    assert len(bits) == (len(rows) + 7) // 8


def test_batch_digest_spells_seq_b_uids_and_variants() -> None:
    fingerprint = sha256(b"d").digest()
    by_hand = sha256(
        b"superbatch-batch-v1\x00"
        + fingerprint
        + b"\x02\x01\x00\x00\x00\x00\x00\x00"  # seq 258
        + b"\x02\x00\x00\x00"  # b = 2
        + b"u" * 16
        + b"\x00"
        + b"v" * 16
        + b"\x01"
    ).digest()
    assert batch_digest(fingerprint, 258, [b"u" * 16, b"v" * 16], [0, 1]) == by_hand


@pytest.mark.parametrize(
    ("seq", "uids", "variants"),
    [
        (0, [b"u" * 16], []),
        (0, [b"short"], [0]),
        (0, [b"u" * 16], [256]),
        (0, [b"u" * 16], [-1]),
        (-1, [b"u" * 16], [0]),
    ],
)
def test_batch_digest_refuses_what_it_cannot_spell(seq: int, uids: list[bytes], variants: list[int]) -> None:
    with pytest.raises(InvalidInput):
        batch_digest(b"f" * 32, seq, uids, variants)


def test_log_digests_chain() -> None:
    start = log_digest_start("job_1", "h1")
    assert start == sha256(b"superbatch-log-v1\x00job_1\x00h1").digest()
    first, second = sha256(b"b0").digest(), sha256(b"b1").digest()
    after = next_log_digest(next_log_digest(start, first), second)
    assert after == sha256(sha256(start + first).digest() + second).digest()


@pytest.mark.parametrize(("job", "history"), [("", "h"), ("jöb", "h"), ("j", ""), ("a\0b", "h")])
def test_log_digest_refuses_ids_that_are_not_plain(job: str, history: str) -> None:
    with pytest.raises(InvalidInput, match="ASCII"):
        log_digest_start(job, history)


def test_canonical_json_has_one_spelling() -> None:
    assert (
        canonical_json({"b": [1, 0.8, None, True], "a": "Fuß \n"}) == '{"a":"Fuß \\n","b":[1,0.8,null,true]}'.encode()
    )


@given(JSON_VALUES)
def test_canonical_json_reads_back_and_is_stable(value: object) -> None:
    written = canonical_json(value)  # type: ignore[arg-type]
    assert parse_json(written, where="test") == value
    assert canonical_json(parse_json(written, where="test")) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a": {2: 3}}, b"x", "\ud800", {1, 2}])
def test_canonical_json_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(InvalidInput, match="canonical JSON"):
        canonical_json(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\x00", "[" * 100_000])
def test_broken_json_is_a_corrupt_file(text: bytes | str) -> None:
    with pytest.raises(CorruptFile, match="page 3"):
        parse_json(text, where="page 3")
