"""Reference embeddings of a shard: both towers of every row, and which rows have none.

Micro-batches are cut by position over all raw rows of the shard. A row that cannot be embedded is replaced by the
encoder's blank one, so that its neighbours keep their positions, and with them their bits.

Letters: n rows of the shard, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from superbatch.formats.embedding_shard import (
    EmbeddingShard,
    embedding_schema,
    read_embedding_shard,
    write_embedding_shard,
)
from superbatch.tiny.picture import BadRow
from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.protocol import DualEncoder, PreparedRow
from superbatch_server.workers.index import OK

NOT_FINITE = "reference_not_finite"
NOT_UNIT = "reference_not_unit"
UNIT_NORM_TOLERANCE = 2e-3


@dataclass(frozen=True, eq=False)
class ShardEmbeddings:
    """Embeddings of one shard, fp16 as stored; rows whose verdict is not "ok" are zero."""

    image: npt.NDArray[np.float16]
    text: npt.NDArray[np.float16]
    verdict: list[str]
    logit_scale: float
    logit_bias: float


class ShardEmbedder:
    """Embeds the rows of one shard as they come in; holds one micro-batch of prepared rows."""

    def __init__(self, encoder: DualEncoder, *, micro_batch: int) -> None:
        self._encoder = encoder
        self._micro_batch = micro_batch
        self._waiting: list[PreparedRow] = []
        self._parts_mD: list[tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]] = []
        self._verdicts: list[str] = []
        self.encode_s = 0.0
        """Seconds in the model; what `add` takes besides is decoding."""

    def add(self, a: bytes | None, b: bytes | None) -> None:
        """Take the next row; a broken one gets its reason as verdict and never raises."""
        try:
            self._waiting.append(self._encoder.prepare(a, b))
            self._verdicts.append(OK)
        except BadRow as error:
            self._waiting.append(self._encoder.blank())
            self._verdicts.append(str(error.reason))
        if len(self._waiting) == self._micro_batch:
            self._flush()

    def finish(self) -> ShardEmbeddings:
        """Return the embeddings of all rows."""
        self._flush()
        image_nD, text_nD = self._stack(0), self._stack(1)
        for row in np.flatnonzero(~_is_unit(image_nD, text_nD)):
            if self._verdicts[row] == OK:
                finite = np.isfinite(image_nD[row]).all() and np.isfinite(text_nD[row]).all()
                self._verdicts[row] = NOT_UNIT if finite else NOT_FINITE
        bad_n = np.array([verdict != OK for verdict in self._verdicts], dtype=bool)
        image_nD[bad_n], text_nD[bad_n] = 0, 0
        return ShardEmbeddings(image_nD, text_nD, self._verdicts, self._encoder.logit_scale, self._encoder.logit_bias)

    def _flush(self) -> None:
        if self._waiting:
            started = monotonic()
            part = encode_padded(self._encoder, self._waiting, micro_batch=self._micro_batch)
            self._parts_mD.append((part.image_BD.astype(np.float16), part.text_BD.astype(np.float16)))
            self._waiting = []
            self.encode_s += monotonic() - started

    def _stack(self, tower: int) -> npt.NDArray[np.float16]:
        empty_0D = np.empty((0, self._encoder.width), dtype=np.float16)
        return np.concatenate([empty_0D, *(part[tower] for part in self._parts_mD)])


def render_embeddings(found: ShardEmbeddings, *, encoder: str, numerics: str, micro_batch: int) -> bytes:
    """Return the embedding file, see `superbatch.formats.embedding_shard`.

    Args:
        encoder, numerics: digests, for people; the cache key says the same.
        micro_batch: the one in force when the shard was embedded.
    """
    width = found.image.shape[1]
    columns = [_packed(found.image), _packed(found.text), pa.array(found.verdict, type=pa.string())]
    rows = pa.RecordBatch.from_arrays(columns, schema=embedding_schema(width))
    shard = EmbeddingShard(rows, width, found.logit_scale, found.logit_bias)
    return write_embedding_shard(shard, encoder=encoder, numerics=numerics, micro_batch=micro_batch)


def read_embeddings(data: bytes) -> ShardEmbeddings:
    """Return what `render_embeddings` wrote.

    Raises: CorruptFile, UnsupportedVersion.
    """
    shard = read_embedding_shard(data)
    return ShardEmbeddings(
        image=_unpacked(shard.rows.column("image"), shard.width),
        text=_unpacked(shard.rows.column("text"), shard.width),
        verdict=shard.rows.column("verdict").to_pylist(),
        logit_scale=shard.logit_scale,
        logit_bias=shard.logit_bias,
    )


def _packed(tower_nD: npt.NDArray[np.float16]) -> pa.Array:
    n, width = tower_nD.shape
    data = pa.py_buffer(np.ascontiguousarray(tower_nD, dtype="<f2"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * width), n, [None, data])


def _unpacked(column: pa.Array, width: int) -> npt.NDArray[np.float16]:
    data = column.buffers()[1]
    start = column.offset * 2 * width
    values = (
        np.frombuffer(data, dtype="<f2", count=len(column) * width, offset=start) if len(column) else np.empty(0, "<f2")
    )
    return values.reshape(len(column), width)


def _is_unit(image_nD: npt.NDArray[np.float16], text_nD: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    norm_2n = np.stack([np.linalg.norm(tower.astype(np.float32), axis=1) for tower in (image_nD, text_nD)])
    return np.asarray((np.abs(norm_2n - 1) <= UNIT_NORM_TOLERANCE).all(axis=0))
