"""Rows of any number -> forwards of one fixed size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superbatch.formats.errors import InvalidInput
from superbatch_server.encoders.protocol import DualEncoder, Embeddings, PreparedRow


def encode_padded(encoder: DualEncoder, rows: Sequence[PreparedRow], *, micro_batch: int) -> Embeddings:
    """Return the embeddings of `rows`, every forward on exactly `micro_batch` of them.

    Rows are cut by position alone and the last micro-batch is filled with `encoder.blank()`, whose embeddings are
    dropped: a matrix product of another height may differ in its last bits, so row i's bits depend on `rows` and
    `micro_batch` and on nothing else.

    Args:
        encoder: any encoder that keeps the law of `DualEncoder`.
        rows: in the order wanted; may be empty.
        micro_batch: rows per forward, at least 1; part of the numerics profile.
    Returns: fp32 arrays of len(rows) x width.
    Raises: InvalidInput for micro_batch < 1.
    Cost: ceil(len(rows) / micro_batch) forwards.
    """
    if micro_batch < 1:
        raise InvalidInput(f"micro_batch must be at least 1; got {micro_batch}.")
    image_BD = np.empty((len(rows), encoder.width), dtype=np.float32)
    text_BD = np.empty_like(image_BD)
    for start in range(0, len(rows), micro_batch):
        cut = list(rows[start : start + micro_batch])
        padding = [encoder.blank()] * (micro_batch - len(cut))
        part = encoder.encode(cut + padding)
        image_BD[start : start + len(cut)] = part.image_BD[: len(cut)]
        text_BD[start : start + len(cut)] = part.text_BD[: len(cut)]
    return Embeddings(image_BD=image_BD, text_BD=text_BD)
