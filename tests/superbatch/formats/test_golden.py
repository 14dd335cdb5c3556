"""Files written once by version 0.1.0; every later version must read them and give the same values.

Never write them again: a format that can no longer read them needs a new major version and files of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from superbatch.formats.batch_list import BatchListReader, digest_of_rows
from superbatch.formats.bucket import LogEnd, LogHead, LogSegment
from superbatch.formats.canonical import canonical_json
from superbatch.formats.manifest import Manifest
from superbatch.formats.score_shard import read_score_shard
from superbatch.formats.shards import ShardTable

GOLDEN = Path(__file__).parent / "golden"


def as_json(rows: pa.RecordBatch) -> list[dict[str, object]]:
    return [
        {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
        for row in rows.to_pylist()
    ]


def test_the_batch_list_gives_the_same_rows_and_digests() -> None:
    expected = json.loads((GOLDEN / "batch_list.json").read_text())
    reader = BatchListReader(GOLDEN / "batch_list.parquet")
    assert reader.fingerprint.hex() == expected["fingerprint"]
    assert [digest.hex() for digest in reader.batch_digests] == expected["batch_digests"]
    assert [as_json(reader.read(position)) for position in range(reader.num_batches)] == expected["batches"]
    assert digest_of_rows(reader.read(1), fingerprint=reader.fingerprint) == reader.batch_digests[1]


def test_the_score_shard_gives_the_same_rows() -> None:
    expected = json.loads((GOLDEN / "score_shard.json").read_text())
    shard = read_score_shard(GOLDEN / "score_shard.parquet")
    assert shard.fingerprint.hex() == expected["fingerprint"]
    assert as_json(shard.rows) == expected["rows"]


def test_the_documents_keep_every_value_and_byte() -> None:
    for name, kind in (("manifest", Manifest), ("shard_table", ShardTable)):
        data = (GOLDEN / f"{name}.json").read_bytes()
        assert canonical_json(kind.from_json(data).to_json()) == data
    for name, kind in (("log_head", LogHead), ("log_segment", LogSegment), ("log_end", LogEnd)):
        data = (GOLDEN / f"{name}.json").read_bytes()
        assert kind.parse(data).render() == data
