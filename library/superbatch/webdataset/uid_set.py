"""DataComp's `.npy` of uids: which rows were ever chosen, as a set. Order and multiplicity are lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from superbatch.formats.errors import InvalidInput

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64
_DESCR = "[('f0', '<u8'), ('f1', '<u8')]"


def write_uid_set(out: BinaryIO, uids: Iterable[bytes]) -> int:
    """Write distinct uids as DataComp's reshard tools read them, and return how many there are.

    A NumPy file, version 1.0: one row per uid with the dtype "u8,u8" (the first and the last 8 bytes of the uid, each
    as a big-endian number, so that the 32 hexadecimal digits of a uid are f0 and f1 in hexadecimal), sorted.

    This is a set: neither the batches nor their order survive, nor how often a row was chosen. Training on it is
    ordinary training on a filtered data set, not on jointly selected batches.

    Args:
        out: where to write, at its position.
        uids: 16 bytes each, in any order, repeated as often as you like.
    Returns:
        The number of distinct uids.
    Raises:
        InvalidInput: a uid that is not 16 bytes long.
    Cost: memory of about 100 bytes per distinct uid.
    Source: DataComp (arXiv:2304.14108), the subset files of its filtering track.
    """
    distinct = sorted(set(uids))
    if any(len(uid) != 16 for uid in distinct):
        raise InvalidInput("a uid has 16 bytes; got one of another length. Pass the uid column of a batch list.")
    out.write(_header(len(distinct)))
    for uid in distinct:
        out.write(uid[7::-1] + uid[:7:-1])  # each half is written as a little-endian number
    return len(distinct)


def _header(num_uids: int) -> bytes:
    """Return the header of a NumPy file, padded so that the data begin at a multiple of 64 bytes."""
    text = f"{{'descr': {_DESCR}, 'fortran_order': False, 'shape': ({num_uids},), }}"
    unpadded = len(_MAGIC) + 2 + len(text) + 1
    text += " " * (-unpadded % _ALIGNMENT) + "\n"
    return _MAGIC + len(text).to_bytes(2, "little") + text.encode("ascii")
