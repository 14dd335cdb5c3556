"""Embeddings of single rows under one checkpoint: the learner's side of a score.

Letters: m rows of one part, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from superbatch.formats.errors import SuperbatchError
from superbatch.tiny.picture import BadRow
from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.protocol import DualEncoder, PreparedRow
from superbatch_server.schemas.errors import InsufficientStorage, Unavailable
from superbatch_server.storage.disk import is_full
from superbatch_server.storage.roots import open_roots
from superbatch_server.workers.model_files import EncoderFiles, EncoderShelf
from superbatch_server.workers.out_of_memory import is_out_of_memory
from superbatch_server.workers.row_reader import RowRef, read_rows
from superbatch_server.workers.worker_settings import WorkerSettings

Cause = Literal["model", "memory", "rows", "storage"]


@dataclass(frozen=True, eq=False)
class RowEmbeddings:
    """Both towers of some rows under one model; NaN where a row has no embedding."""

    image: npt.NDArray[np.float32]
    text: npt.NDArray[np.float32]
    logit_scale: float
    logit_bias: float

    def __len__(self) -> int:
        return len(self.image)


class ScoringFailed(SuperbatchError):
    """Rows could not be embedded.

    Causes: the model cannot be loaded; memory runs out; rows cannot be read; a storage does not answer, which says
    nothing about model or rows and may be over in the next attempt.
    """

    code = "scoring_failed"

    def __init__(self, cause: Cause, error_code: str, message: str) -> None:
        super().__init__(cause, error_code, message)
        self.cause, self.error_code, self.message = cause, error_code, message

    def __str__(self) -> str:
        return self.message


class RowScorer:
    """Embeds parts of a super-batch, one after another. Plain: executors put it where they want it to run."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._roots = open_roots(settings.roots)
        self._shelf = EncoderShelf(
            self._roots, folder=settings.model_folder, threads=settings.threads, dtype=settings.dtype
        )

    def embed(self, files: EncoderFiles, rows: Sequence[RowRef], micro_batch: int) -> RowEmbeddings | ScoringFailed:
        """Return the embeddings, or what went wrong: as a value, so that it crosses processes as it is."""
        cause: Cause = "model"
        try:
            encoder = self._shelf.get(files)
            cause = "rows"
            return _embedded(encoder, [_prepared(encoder, *row) for row in read_rows(self._roots, rows)], micro_batch)
        except Exception as error:
            code = error.code if isinstance(error, SuperbatchError) else "scoring_failed"
            if is_out_of_memory(error):
                cause = "memory"
            elif isinstance(error, (Unavailable, OSError)):
                cause, code = "storage", InsufficientStorage.code if is_full(error) else Unavailable.code
            return ScoringFailed(cause, code, str(error) or type(error).__name__)


def parts(rows: Sequence[RowRef], *, micro_batch: int, num_workers: int) -> Iterator[Sequence[RowRef]]:
    """Cut a super-batch into whole micro-batches per part, about four parts per worker.

    Every cut falls between micro-batches, so the number of workers changes no row's micro-batch and none of its bits.
    """
    num_micro_batches = -(-len(rows) // micro_batch)
    step = max(1, num_micro_batches // (4 * num_workers)) * micro_batch
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def join(found: Sequence[RowEmbeddings | ScoringFailed]) -> RowEmbeddings:
    """Return the parts as one, or raise the first failure."""
    whole: list[RowEmbeddings] = []
    for part in found:
        if isinstance(part, ScoringFailed):
            raise part
        whole.append(part)
    assert whole, "a super-batch has at least one row"
    return RowEmbeddings(
        image=np.concatenate([part.image for part in whole]),
        text=np.concatenate([part.text for part in whole]),
        logit_scale=whole[0].logit_scale,
        logit_bias=whole[0].logit_bias,
    )


def _prepared(encoder: DualEncoder, a: bytes, b: bytes) -> PreparedRow | None:
    try:
        return encoder.prepare(a, b)
    except BadRow:  # this model refuses a row that the index accepts
        return None


def _embedded(encoder: DualEncoder, rows_m: Sequence[PreparedRow | None], micro_batch: int) -> RowEmbeddings:
    found = encode_padded(encoder, [row or encoder.blank() for row in rows_m], micro_batch=micro_batch)
    refused_m = np.array([row is None for row in rows_m], dtype=bool)
    found.image_BD[refused_m], found.text_BD[refused_m] = np.nan, np.nan
    return RowEmbeddings(found.image_BD, found.text_BD, encoder.logit_scale, encoder.logit_bias)
