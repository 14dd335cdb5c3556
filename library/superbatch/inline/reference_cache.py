"""The reference's embeddings of a pool, by uid or by dataset_index: computed once, then looked up in every step.

A cache is a folder: the towers `image.f16` and `text.f16` (M rows of D little-endian fp16 numbers), the keys in order
with the row of each, and `cache.json`. All but the last is mapped, never read as a whole, so that it may be larger than
memory.

Letters: M rows of the cache, B rows that are looked up, D width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from superbatch.formats.errors import InvalidInput
from superbatch.formats.json_fields import as_fields
from superbatch.inline.cache_writer import CACHE_NAME, CachePart, write_cache
from superbatch.inline.identities import Numbers, Uids, number_array, uid_array
from superbatch.inline.key_index import ABSENT, KeyIndex, uid_keys
from superbatch.inline.stored_embeddings import fetch_table, parts_of_table
from superbatch.reading.addresses import Address
from superbatch.selection.candidates import DualEmbeddings

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float16, Int64

__all__ = ["CachePart", "MissingEmbeddings", "ReferenceCache"]

_SHOWN = 5
_Shown = Callable[[int], str]


class MissingEmbeddings(InvalidInput):
    """Rows that the cache does not hold; `rows` are their positions in what was asked for."""

    code: ClassVar[str] = "missing_embeddings"

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the rows when the error crosses a process boundary."""
        return (MissingEmbeddings, (str(self), self.rows))


class ReferenceCache:
    """An open cache; make one with `build` or `from_store`, open it again with `open`.

    `num_rows` M, `width` D, `logit_scale` (t) and `logit_bias` of the reference, `source`: what the embeddings come
    from. Several processes may open one folder; reads need no lock.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the cache in a folder; the same as `ReferenceCache.open`."""
        self._folder = Path(folder)
        if not (self._folder / CACHE_NAME).is_file():
            raise InvalidInput(
                f"a reference cache is a folder with {CACHE_NAME}; got none ({self._folder}). "
                "Make it with ReferenceCache.build or ReferenceCache.from_store."
            )
        fields = as_fields((self._folder / CACHE_NAME).read_bytes(), where=str(self._folder / CACHE_NAME))
        fields.check_version()
        self.num_rows, self.width = fields.integer("rows"), fields.integer("width", minimum=1)
        self.source = fields.text("source")
        self.logit_scale, self.logit_bias = fields.number("logit_scale"), fields.number("logit_bias")
        self._image_MD, self._text_MD = (self._mapped(f"{name}.f16") for name in ("image", "text"))
        self._by_uid = KeyIndex(self._folder, "uid")
        has_index = (self._folder / "index-keys.npy").is_file()
        self._by_index = KeyIndex(self._folder, "index") if has_index else None

    def __len__(self) -> int:
        return self.num_rows

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ReferenceCache:
        """Return the cache in a folder.

        Raises:
            InvalidInput: there is none, or it was cut short.
            UnsupportedVersion: a later major version wrote it.
        """
        return cls(folder)

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        parts: Iterable[CachePart],
        *,
        logit_scale: float,
        logit_bias: float = 0.0,
        source: str = "",
    ) -> ReferenceCache:
        """Write a cache from embeddings of any model, and return it open.

        Args:
            folder: must not exist; it appears when all is written.
            parts: rows in any order, a part at a time: `CachePart(uids, image, text)` with unit rows in any float type.
                Of several rows of one uid the first is found.
            logit_scale: t of the reference itself, not its logarithm.
            logit_bias: of the sigmoid loss; 0 for a model trained under softmax.
            source: what the embeddings come from, for people.
        Raises:
            InvalidInput: the folder exists, or parts that do not fit each other.
            InvalidEmbeddings: a row that is not finite, or not of unit length within 2e-3, by its uid.
        Cost: memory of one part, and 40 bytes per row at the end; disk of 4*D + 24 bytes per row, with dataset_index
            of 16 more.
        """
        write_cache(Path(folder), parts, logit_scale=logit_scale, logit_bias=logit_bias, source=source)
        return cls(folder)

    @classmethod
    def from_store(cls, store: Address, *, job: str, history_id: str, folder: str | os.PathLike[str]) -> ReferenceCache:
        """Return the cache of the embeddings that the service's embed pass made for a job.

        They are read from the store once, shard by shard, each checked by its sha256, and written to `folder` without
        the rows that were quarantined. A folder that holds them already is opened as it is.
        Args:
            store: the service's store: a local path, or an s3, gs, http or file URL; see `reading.open_source`.
            job, history_id: of a job whose embed pass is over; `BatchLog.state()` has both.
            folder: the local cache; one for each job's data set and reference.
        Raises:
            InvalidInput: no table (the pass is not over, or the job has no reference), or another cache in the folder.
            DigestMismatch, CorruptFile: an object of the store is damaged.
            OSError: the store does not answer.
        Cost: reads all embeddings and indexes once; memory of one shard. The disk that `build` needs.
        """
        table, digest = fetch_table(store, job=job, history_id=history_id)
        folder = Path(folder)
        source = f"table {digest}"
        if not (folder / CACHE_NAME).is_file():
            first, parts = parts_of_table(store, table)
            scale, bias = first.logit_scale, first.logit_bias
            write_cache(folder, parts, logit_scale=scale, logit_bias=bias, source=source)
        found = cls(folder)
        if found.source != source:
            raise InvalidInput(
                f"the folder must hold the embeddings of this job; got {found.source!r} instead of {source!r} "
                f"({folder}, job {job}). Name another folder."
            )
        return found

    def holds(self, uids: Uids) -> Bool[np.ndarray, " B"]:
        """Return which of the rows the cache has: what a loader keeps of a super-batch."""
        found_B: np.ndarray = self._by_uid.rows_of(uid_keys(uid_array(uids))) != ABSENT
        return found_B

    def take(self, uids: Uids, *, device: torch.device | str = "cpu") -> DualEmbeddings:
        """Return the embeddings of rows by uid, in the order asked for, fp32 on `device`.

        Raises:
            MissingEmbeddings: rows that the cache does not hold, by name.
        Cost: B reads of D numbers per tower where the files are not in the page cache.
        """
        uid_B = uid_array(uids)
        row_B = self._by_uid.rows_of(uid_keys(uid_B))
        return self._taken(row_B, device, shown=lambda row: f"uid {uid_B[row].tobytes().hex()}")

    def take_indices(self, dataset_index: Numbers, *, device: torch.device | str = "cpu") -> DualEmbeddings:
        """Return the embeddings of rows by dataset_index, in the order asked for, fp32 on `device`.

        Raises:
            MissingEmbeddings: rows that the cache does not hold, by number.
            InvalidInput: the cache was built without dataset_index.
        """
        if self._by_index is None:
            raise InvalidInput(
                f"the cache must know rows by dataset_index; it was built by uid alone ({self._folder}). "
                "Use take(uids), or build it with CachePart(..., dataset_index=...)."
            )
        index_B = number_array(dataset_index, name="dataset_index")
        return self._taken(self._by_index.rows_of(index_B), device, shown=lambda row: f"row {index_B[row]}")

    def _taken(self, row_B: Int64[np.ndarray, " B"], device: torch.device | str, *, shown: _Shown) -> DualEmbeddings:
        missing = np.flatnonzero(row_B == ABSENT).tolist()
        if missing:
            named = ", ".join(shown(row) for row in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            raise MissingEmbeddings(
                f"every candidate needs a reference embedding; the cache of {self.num_rows} rows lacks {len(missing)} "
                f"of {len(row_B)}: {named} ({self._folder}). Drop them with holds(), or add them to the cache.",
                missing,
            )
        order_B = np.argsort(row_B)  # the files are read forward
        image_BD, text_BD = (_rows_of(tower_MD, row_B, order_B, device) for tower_MD in (self._image_MD, self._text_MD))
        return DualEmbeddings(image_BD, text_BD, self.logit_scale, self.logit_bias)

    def _mapped(self, name: str) -> Float16[np.ndarray, "M D"]:
        path = self._folder / name
        num_bytes = path.stat().st_size
        if num_bytes != self.num_rows * self.width * 2:
            raise InvalidInput(
                f"a tower of {self.num_rows} rows of {self.width} fp16 numbers has {self.num_rows * self.width * 2} "
                f"bytes; got {num_bytes} ({path}). It was cut short: make the cache again."
            )
        if not num_bytes:
            return np.empty((0, self.width), dtype="<f2")
        return np.memmap(path, dtype="<f2", mode="r", shape=(self.num_rows, self.width))


def _rows_of(
    tower_MD: Float16[np.ndarray, "M D"],
    row_B: Int64[np.ndarray, " B"],
    order_B: Int64[np.ndarray, " B"],
    device: torch.device | str,
) -> Float[Tensor, "B D"]:
    taken_BD = np.empty((len(row_B), tower_MD.shape[1]), dtype=np.float16)
    taken_BD[order_B] = tower_MD[row_B[order_B]]
    return torch.from_numpy(taken_BD).to(device).float()
