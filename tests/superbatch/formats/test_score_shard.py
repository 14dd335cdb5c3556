"""The score shard: what every candidate of a super-batch scored."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from superbatch.formats.errors import CorruptFile, InvalidInput
from superbatch.formats.score_shard import NOT_CHOSEN, SCORE_SHARD_SCHEMA, read_score_shard, write_score_shard
from tests.superbatch.formats.sample_batches import FINGERPRINT
from tests.superbatch.formats.test_batch_list import LIST


def candidates() -> pa.Table:
    return pa.table(
        {
            "batch_seq": [3, 3, 3],
            "dataset_index": [7, 8, 1 << 40],
            "uid": [b"u" * 16, b"v" * 16, b"w" * 16],
            "loss_learner": [0.5, 1.5, None],
            "loss_reference": [0.25, 0.125, 4.0],
            "score": [0.25, 1.375, None],
            "perturbed_score": [2.5, float("-inf"), None],  # excluded by a rule, not the same as not scored
            "round": [1, NOT_CHOSEN, NOT_CHOSEN],
        },
        schema=SCORE_SHARD_SCHEMA,
    )


def test_candidates_come_back_in_the_order_of_the_super_batch(tmp_path: Path) -> None:
    data = write_score_shard(candidates(), fingerprint=FINGERPRINT)
    (tmp_path / "shard.parquet").write_bytes(data)
    for source in (data, tmp_path / "shard.parquet"):
        shard = read_score_shard(source)
        assert shard.fingerprint == FINGERPRINT
        assert pa.Table.from_batches([shard.rows]).equals(candidates())


def test_the_same_candidates_give_the_same_bytes() -> None:
    shuffled = candidates().select(SCORE_SHARD_SCHEMA.names[::-1])
    assert write_score_shard(shuffled, fingerprint=FINGERPRINT) == write_score_shard(
        candidates(), fingerprint=FINGERPRINT
    )


def test_a_missing_or_wrong_column_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must have the column round"):
        write_score_shard(candidates().drop_columns(["round"]), fingerprint=FINGERPRINT)
    position = SCORE_SHARD_SCHEMA.get_field_index("round")
    with pytest.raises(InvalidInput, match="column round must be int16"):
        write_score_shard(candidates().set_column(position, "round", [["a", "b", "c"]]), fingerprint=FINGERPRINT)
    with pytest.raises(InvalidInput, match="2 nulls"):
        write_score_shard(candidates().set_column(position, "round", [[1, None, None]]), fingerprint=FINGERPRINT)
    with pytest.raises(InvalidInput, match="32 bytes; got 5"):
        write_score_shard(candidates(), fingerprint=b"short")


def test_a_batch_list_is_no_score_shard() -> None:
    with pytest.raises(CorruptFile, match="must be a score-shard; got a batch-list"):
        read_score_shard(LIST)
