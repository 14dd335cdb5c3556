"""Identities of rows as a trainer has them, as the 16 bytes that a selection reads.

Letters: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.formats.uid import UID_BYTES
from superbatch.selection.errors import InvalidSelection

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8

Uids = Sequence[bytes] | np.ndarray | torch.Tensor
"""16 bytes per row: a list of bytes (`LogBatch.rows["uid"].to_pylist()`), or uint8 [B, 16] of numpy or torch."""

Numbers = Sequence[int] | np.ndarray | torch.Tensor
"""One whole number per row."""


def uid_array(uids: Uids, *, name: str = "uids") -> UInt8[np.ndarray, "B 16"]:
    """Return uids as uint8 [B, 16].

    Args:
        uids: see `Uids`.
        name: of the argument, for messages.
    Raises:
        InvalidSelection: another type, or a row that does not have 16 bytes.
    """
    if isinstance(uids, torch.Tensor):
        uids = uids.cpu().numpy()
    if isinstance(uids, np.ndarray):
        if uids.dtype == np.uint8 and uids.ndim == 2 and uids.shape[1] == UID_BYTES:
            return np.ascontiguousarray(uids)
        got = f"{uids.dtype} {list(uids.shape)}"
    else:
        bad = next((row for row, uid in enumerate(uids) if not isinstance(uid, bytes) or len(uid) != UID_BYTES), None)
        if bad is None:
            return np.frombuffer(b"".join(uids), dtype=np.uint8).reshape(len(uids), UID_BYTES)
        got = f"{uids[bad]!r} (row {bad})"
    raise InvalidSelection(
        f"{name} must be 16 bytes per row, a list of bytes or uint8 [B, 16]; got {got}. "
        "Take the column uid of the batch list, uid_of_bytes(picture, caption), or index_uids(numbers)."
    )


def index_uids(numbers: Numbers) -> UInt8[np.ndarray, "B 16"]:
    """Return uids for rows that are known by a number only: the number, u64le, then eight zero bytes.

    For a trainer whose loader gives row numbers. They are stable and distinct, which is all that a selection needs;
    they are not the uids of the service, which are digests of the content.
    Args:
        numbers: row numbers, each at least 0.
    Raises:
        InvalidSelection: not whole numbers, or a negative one.
    """
    number_B = number_array(numbers, name="numbers")
    if (number_B < 0).any():
        raise InvalidSelection(f"a row number must be at least 0; got {number_B.min()}. Number the rows from 0.")
    words_B2 = np.zeros((len(number_B), 2), dtype="<u8")
    words_B2[:, 0] = number_B
    return words_B2.view(np.uint8)


def number_array(numbers: Numbers, *, name: str) -> Int64[np.ndarray, " B"]:
    """Return whole numbers as int64 [B].

    Raises:
        InvalidSelection: another type or shape.
    """
    found = numbers.cpu().numpy() if isinstance(numbers, torch.Tensor) else np.asarray(numbers)
    if found.ndim != 1 or (found.dtype.kind not in "iu" and len(found)):
        raise InvalidSelection(f"{name} must be whole numbers [B]; got {found.dtype} {list(found.shape)}.")
    return found.astype(np.int64)
