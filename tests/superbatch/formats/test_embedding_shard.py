"""Embedding shards and their table: what goes in comes out, damage is refused, and docs/formats.md names it all."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from superbatch.formats.embedding_shard import (
    EmbeddingEntry,
    EmbeddingShard,
    EmbeddingTable,
    StoredObject,
    embedding_schema,
    read_embedding_shard,
    read_index_uids,
    write_embedding_shard,
)
from superbatch.formats.errors import CorruptFile, UnsupportedVersion
from tests.superbatch.formats.sample_batches import FINGERPRINT

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"
TABLE = EmbeddingTable(
    job="job_0123456789abcdef",
    history_id="h1",
    dataset_fingerprint=FINGERPRINT.hex(),
    reference_digest="04" * 32,
    shards=(
        EmbeddingEntry(
            0, 0, 3, StoredObject("cache/index/a.parquet", 7, "01" * 32), StoredObject("cache/e.parquet", 9, "02" * 32)
        ),
    ),
)


def shard() -> EmbeddingShard:
    columns = [pa.array([bytes(range(4)), bytes(4)], pa.binary(4)), pa.array([bytes(4)] * 2, pa.binary(4))]
    rows = pa.RecordBatch.from_arrays([*columns, pa.array(["ok", "empty_caption"])], schema=embedding_schema(2))
    return EmbeddingShard(rows, 2, 0.1 + 0.2, -1e-300)


def test_a_shard_comes_back_to_the_last_bit() -> None:
    data = write_embedding_shard(shard(), encoder="e", numerics="n", micro_batch=4)
    found = read_embedding_shard(data)
    assert found.rows == shard().rows
    assert (found.width, found.logit_scale, found.logit_bias) == (2, 0.1 + 0.2, -1e-300)
    with pytest.raises(CorruptFile, match="must be a index-shard; got a embedding-shard"):
        read_index_uids(data)
    with pytest.raises(CorruptFile):
        read_embedding_shard(data[:-20])


def test_the_table_comes_back_and_refuses_what_it_cannot_read() -> None:
    assert EmbeddingTable.parse(TABLE.render()) == TABLE
    unnamed = TABLE.render().replace(b'"' + b"04" * 32 + b'"', b"null")
    assert EmbeddingTable.parse(unnamed).reference_digest is None
    with pytest.raises(UnsupportedVersion):
        EmbeddingTable.parse(TABLE.render().replace(b'"1.0"', b'"2.0"'))
    with pytest.raises(CorruptFile, match="sha256"):
        EmbeddingTable.parse(TABLE.render().replace(b"02" * 32, b"02"))


def test_the_page_names_every_key_and_column() -> None:
    page = DOCS.read_text().split("## Reference embeddings\n")[1].split("\n## ")[0]
    data = write_embedding_shard(shard(), encoder="e", numerics="n", micro_batch=4)
    keys = set(re.findall(rb'"(\w+)":', TABLE.render())) | {name.encode() for name in embedding_schema(2).names}
    keys |= set(re.findall(rb"superbatch\.\w+", data)) - {b"superbatch.format_version"}
    assert len(keys) > 20
    assert {key for key in keys if b"`" + key + b"`" not in page.encode()} == set()
