"""The files of a reference cache, written part by part into a folder that appears when all is there.

Letters: n rows of a part, M rows in all, D width.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from superbatch.formats.canonical import JsonValue, canonical_json
from superbatch.formats.errors import InvalidInput
from superbatch.formats.json_fields import FORMAT_VERSION
from superbatch.inline.identities import Numbers, Uids, number_array, uid_array
from superbatch.inline.key_index import uid_keys, write_key_index
from superbatch.selection.candidates import at_least_float32
from superbatch.selection.checks import UNIT_NORM_TOLERANCE
from superbatch.selection.errors import InvalidEmbeddings

if TYPE_CHECKING:
    from jaxtyping import Float

CACHE_NAME = "cache.json"


@dataclass(frozen=True, eq=False)
class CachePart:
    """Some rows for a cache: their uids, both towers, and, in all parts or in none, their dataset_index."""

    uids: Uids
    image: Float[Tensor, "n D"]
    text: Float[Tensor, "n D"]
    dataset_index: Numbers | None = None


def write_cache(
    folder: Path, parts: Iterable[CachePart], *, logit_scale: float, logit_bias: float, source: str
) -> None:
    """Write a cache; see `ReferenceCache.build`."""
    if folder.exists():
        raise InvalidInput(
            f"a cache is written to a folder that does not exist; got one ({folder}). "
            "Open it with ReferenceCache.open, or name another."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        rows, width = _write_rows(partial, parts)
        fields: dict[str, JsonValue] = {"rows": rows, "width": width, "source": source}
        fields |= {"logit_scale": float(logit_scale), "logit_bias": float(logit_bias)}
        (partial / CACHE_NAME).write_bytes(canonical_json({"format_version": FORMAT_VERSION, **fields}))
        partial.chmod(0o755)
        _rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / CACHE_NAME).is_file():  # else another process was first
            raise


def _write_rows(folder: Path, parts: Iterable[CachePart]) -> tuple[int, int]:
    """Write towers and keys, and return M and D."""
    uid_parts: list[np.ndarray] = []
    index_parts: list[np.ndarray] = []
    width = 0
    with (folder / "image.f16").open("wb") as image, (folder / "text.f16").open("wb") as text:
        for number, part in enumerate(parts):
            uid_n16 = uid_array(part.uids)
            width = _checked_width(part, uid_n16, width=width, number=number)
            for tower, file, name in ((part.image, image, "image"), (part.text, text, "text")):
                _write_tower(tower, file, name=name, uid_n16=uid_n16, number=number)
            uid_parts.append(uid_n16)
            if part.dataset_index is not None:
                index_parts.append(number_array(part.dataset_index, name="dataset_index"))
                _check_lengths(len(index_parts[-1]), len(uid_n16), name="dataset_index", number=number)
    if not width:
        raise InvalidInput("a cache needs at least one part, or it has no width; got none. Give the pool's embeddings.")
    if index_parts and len(index_parts) != len(uid_parts):
        raise InvalidInput(
            f"dataset_index is given in every part or in none; got it in {len(index_parts)} of {len(uid_parts)}."
        )
    uid_M16 = np.concatenate(uid_parts)
    write_key_index(folder, "uid", uid_keys(uid_M16))
    if index_parts:
        write_key_index(folder, "index", np.concatenate(index_parts))
    return len(uid_M16), width


def _checked_width(part: CachePart, uid_n16: np.ndarray, *, width: int, number: int) -> int:
    shapes = [list(tower.shape) for tower in (part.image, part.text)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] < 1 or width not in (0, shapes[0][1]):
        raise InvalidEmbeddings(
            f"both towers of every part must be [n, D] of one D; got image {shapes[0]}, text {shapes[1]}"
            f"{f' after D = {width}' if width else ''} (part {number}). Encode the same rows with both towers."
        )
    _check_lengths(shapes[0][0], len(uid_n16), name="image", number=number)
    return shapes[0][1]


def _check_lengths(found: int, wanted: int, *, name: str, number: int) -> None:
    if found != wanted:
        raise InvalidInput(
            f"a part has one row of {name} per uid; got {found} for {wanted} uids (part {number}). Give the same rows."
        )


def _write_tower(
    tower_nD: Float[Tensor, "n D"], file: BinaryIO, *, name: str, uid_n16: np.ndarray, number: int
) -> None:
    stored_nD = tower_nD.detach().cpu().to(torch.float16).contiguous()
    norm_n = torch.linalg.vector_norm(at_least_float32(stored_nD), dim=1)
    bad = (~((norm_n - 1).abs() <= UNIT_NORM_TOLERANCE)).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        raise InvalidEmbeddings(
            f"embeddings must be finite and of length 1 within {UNIT_NORM_TOLERANCE} in fp16; got {float(norm_n[row])} "
            f"({name} tower, part {number}, row {row}, uid {uid_n16[row].tobytes().hex()}). "
            "Divide each row by its norm, and leave out rows that the model cannot embed."
        )
    file.write(stored_nD.numpy().astype("<f2", copy=False).data)
