"""The two tables that a composed batch becomes: rows of the batch list, and rows of the score shard.

Letters: B candidates, K of them with a finite learner embedding, b chosen, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.score_shard import NOT_CHOSEN, SCORE_SHARD_SCHEMA
from superbatch.selection.spec import Selection
from superbatch_server.schemas.attempts import ScheduleRow
from superbatch_server.schemas.selection import Method

_SAME_COLUMNS = (
    *("uid", "dataset_index", "shard_id", "sample_index", "key", "sample_offset", "sample_length"),
    *("a_offset", "a_length", "b_offset", "b_length"),
)

Array = npt.NDArray[np.float64]


def batch_table(
    row: ScheduleRow,
    members: pa.Table,
    chosen: Selection,
    members_b: npt.NDArray[np.int64],
    losses: Mapping[str, Array],
    *,
    variant_b: npt.NDArray[np.int64],
) -> pa.Table:
    """Return the rows of the batch list, in slot order.

    Args:
        members: index rows of the chosen, in slot order; members_b: where they stand in `chosen`.
        losses: own conditional losses by model, in slot order.
        variant_b: variants, in slot order.
    """
    b = len(members_b)
    columns: dict[str, object] = {name: members.column(name) for name in _SAME_COLUMNS}
    columns |= {
        "batch_seq": pa.array(np.full(b, row.seq, dtype=np.int64)),
        "slot": pa.array(np.arange(b, dtype=np.int32)),
        "caption_index": pa.array(np.zeros(b, dtype=np.int16)),
        "variant": pa.array(variant_b.astype(np.int8)),
    }
    if row.method is not Method.UNIFORM:
        columns["chunk"] = pa.array(chosen.round[members_b].astype(np.int16))
        columns["score"] = pa.array(chosen.score[members_b].astype(np.float32))
    columns |= {f"loss_{name}": pa.array(loss_b.astype(np.float32)) for name, loss_b in losses.items()}
    return batch_rows(columns)


def score_table(
    row: ScheduleRow,
    candidates: pa.Table,
    chosen: Selection,
    kept_K: npt.NDArray[np.int64],
    losses: Mapping[str, Array],
) -> pa.Table:
    """Return the rows of the score shard, in the order of the draw; a dropped candidate has nulls.

    Args:
        candidates: index rows of all; kept_K: where those that `chosen` is about stand among them.
        losses: of the kept before any was chosen, by model.
    """
    B = candidates.num_rows
    round_B = np.full(B, NOT_CHOSEN, dtype=np.int16)
    round_B[kept_K] = chosen.round
    is_scored = row.method is not Method.UNIFORM
    columns = {
        "batch_seq": pa.array(np.full(B, row.seq, dtype=np.int64)),
        "dataset_index": candidates.column("dataset_index"),
        "uid": candidates.column("uid"),
        "round": pa.array(round_B),
        "score": _spread(chosen.score if is_scored else None, kept_K, B),
        "perturbed_score": _spread(chosen.perturbed if is_scored else None, kept_K, B),
    }
    for name in ("learner", "reference"):
        columns[f"loss_{name}"] = _spread(losses.get(name), kept_K, B)
    return pa.table({name: columns[name] for name in SCORE_SHARD_SCHEMA.names})


def _spread(value_K: Array | None, kept_K: npt.NDArray[np.int64], B: int) -> pa.Array:
    """Return float32 values of the kept candidates at their places among all, null elsewhere."""
    if value_K is None:
        return pa.nulls(B, pa.float32())
    value_B = np.zeros(B, dtype=np.float32)
    value_B[kept_K] = value_K
    absent_B = np.ones(B, dtype=bool)
    absent_B[kept_K] = False
    return pa.array(value_B, mask=absent_B)
