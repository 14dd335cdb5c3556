"""The shard table as JSON."""

from __future__ import annotations

from dataclasses import replace

from superbatch.formats.shards import ShardTable
from tests.superbatch.formats.sample_batches import a_shard_table


def test_the_field_of_tower_a_is_written_only_where_there_is_one() -> None:
    plain = a_shard_table(3)
    assert "a_field" not in plain.to_json()
    assert ShardTable.from_json(plain.to_json()) == plain
    parquet = replace(plain, a_field="image", caption_field="meta.caption")
    assert parquet.to_json()["a_field"] == "image"
    assert ShardTable.from_json(parquet.to_json()) == parquet
