"""The candidates of one super-batch: their index rows and their reference embeddings, in the order of the draw.

Letters: B candidates, m of them from one shard, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from superbatch_server.schemas.datasets import ShardEntry
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings


class CandidateTables:
    """Looks rows up in the shards of one dataset."""

    def __init__(self, shards: Sequence[ShardEntry], pool: Pool, *, root: str) -> None:
        self._shards = shards
        self._starts = np.array([shard.start_index for shard in shards], dtype=np.int64)
        self._pool = pool
        self._root = root

    def table(self, index_B: npt.NDArray[np.int64]) -> pa.Table:
        """Return the index rows of candidates in their order, with dataset_index, shard_id, sample_index, source."""
        parts, order = [], []
        for shard, positions_m, rows_m in self._groups(index_B):
            part = pa.Table.from_batches([self._pool.index_of(shard.shard_id).take(pa.array(rows_m))])
            part = part.append_column("dataset_index", pa.array(index_B[positions_m]))
            part = part.append_column("shard_id", pa.array(np.full(len(rows_m), shard.shard_id, dtype=np.int32)))
            part = part.append_column("sample_index", pa.array(rows_m.astype(np.int32)))
            parts.append(part.append_column("source", pa.array([shard.source] * len(rows_m))))
            order.append(positions_m)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order)))).combine_chunks()

    def reference(self, index_B: npt.NDArray[np.int64]) -> RowEmbeddings:
        """Return the reference embeddings of candidates in fp32, in the order given."""
        image_BD: npt.NDArray[np.float32] | None = None
        for shard, positions_m, rows_m in self._groups(index_B):
            found = self._pool.embeddings_of(shard.shard_id)
            if image_BD is None:
                image_BD = np.empty((len(index_B), found.image.shape[1]), dtype=np.float32)
                text_BD = np.empty_like(image_BD)
            image_BD[positions_m], text_BD[positions_m] = found.image[rows_m], found.text[rows_m]
        assert image_BD is not None, "a super-batch has at least one row"
        return RowEmbeddings(image_BD, text_BD, found.logit_scale, found.logit_bias)

    def sources(self, index_n: Sequence[int]) -> list[str]:
        """Return the source of each row."""
        shard_n = np.searchsorted(self._starts, np.array(index_n, dtype=np.int64), side="right") - 1
        return [self._shards[at].source for at in shard_n.tolist()]

    def references(self, table: pa.Table) -> list[RowRef]:
        """Return where the bytes of each row of `table` lie."""
        columns = ("a_offset", "a_length", "b_offset", "b_length", "uid")
        keys = [self._shards[shard_id].key for shard_id in table.column("shard_id").to_pylist()]
        values = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        return [RowRef(self._root, key, *row) for key, row in zip(keys, values, strict=True)]

    def _groups(
        self, index_B: npt.NDArray[np.int64]
    ) -> Iterator[tuple[ShardEntry, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield per shard: its entry, the positions of its candidates, and their rows in it."""
        shard_B = np.searchsorted(self._starts, index_B, side="right") - 1
        order_B = np.argsort(shard_B, kind="stable")
        cuts = np.flatnonzero(np.diff(shard_B[order_B])) + 1
        for positions_m in np.split(order_B, cuts):
            at = int(shard_B[positions_m[0]])
            yield self._shards[at], positions_m, index_B[positions_m] - self._starts[at]
