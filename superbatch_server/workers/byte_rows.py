"""Digests in Arrow columns as rows of bytes, without one Python object per row.

Letters: n rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def byte_rows(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return a column of fixed-size binary values without nulls as uint8 [n, width]."""
    width = column.type.byte_width
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_of_chunk(chunk, width) for chunk in chunks if len(chunk)]
    return np.concatenate([np.empty((0, width), dtype=np.uint8), *parts]) if len(parts) != 1 else parts[0]


def _of_chunk(chunk: pa.Array, width: int) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)
    return data[chunk.offset * width : (chunk.offset + len(chunk)) * width].reshape(-1, width)
