"""What a weights file claims to hold, read from its first bytes only: no torch, and nothing is executed.

A safetensors file is an 8-byte little-endian length, that many bytes of JSON (name -> dtype, shape, data_offsets),
and the tensors without gaps. A pickle, or a zip of pickles as torch.save makes it, is refused by name.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from superbatch_server.schemas.errors import NotSafetensors, PickleRefused

MAX_HEADER_BYTES = 10_000_000
"""About 100,000 tensors. The format allows ten times as much: of the wrong JSON that took 45 s and 2.2 GB here."""

MAX_DIMENSIONS = 64  # as torch
BYTES_OF_DTYPE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class TensorHeader:
    """One tensor: its dtype, its shape, and its bytes [start, stop) after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """The tensors in the order of their bytes, and the file's own notes."""

    tensors: tuple[TensorHeader, ...]
    metadata: Mapping[str, str]


class _Wrong(Exception):
    """What is wrong with a header, in a few words."""


def read_safetensors_header(stream: BinaryIO, *, size: int, where: str) -> SafetensorsHeader:
    """Return the header of a safetensors file.

    Only the header is read. Offsets must be contiguous from 0 to the end of the file and agree with dtype and shape.

    Args:
        stream: the file, at its start.
        size: its length in bytes.
        where: the file's name, for messages.
    Raises:
        PickleRefused: the file begins like a pickle or a zip.
        NotSafetensors: any other departure from the format, or no tensor at all.
    """
    start = stream.read(8)
    try:
        header = _header(stream, start, size)
        metadata = _metadata(header.pop("__metadata__", {}))
        return SafetensorsHeader(_tensors(header, data_bytes=size - 8 - _length(start, size)), metadata)
    except _Wrong as wrong:
        if _PICKLE.match(start) or start.startswith(_ZIP):
            raise PickleRefused(
                f"weights must be safetensors; got a pickle or a zip as torch.save writes it ({where}). "
                "Nothing from outside is executed: save with safetensors.torch.save_file."
            ) from wrong
        raise NotSafetensors(
            f"weights must be a safetensors file; got {wrong} ({where}). "
            "Save them again with safetensors.torch.save_file."
        ) from wrong


def _length(start: bytes, size: int) -> int:
    if len(start) < 8:
        raise _Wrong(f"{size} bytes in all")
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise _Wrong(f"a header of {length} bytes in a file of {size}")
    return int(length)


def _header(stream: BinaryIO, start: bytes, size: int) -> dict[str, object]:
    text = stream.read(_length(start, size))
    if not text.startswith(b"{"):
        raise _Wrong(f"a header that begins with {text[:8]!r}")
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"a header that is no JSON ({error})") from error
    assert isinstance(header, dict)
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Wrong("a name twice in the header")
    return members


def _metadata(notes: object) -> dict[str, str]:
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _Wrong("metadata that is not text")
    return notes


def _tensors(header: dict[str, object], *, data_bytes: int) -> tuple[TensorHeader, ...]:
    tensors = [_tensor(name, entry) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    if not tensors:
        raise _Wrong("no tensor")
    position = 0
    for tensor in tensors:
        if tensor.start != position:
            raise _Wrong(f"tensor {tensor.name!r} at byte {tensor.start} where {position} was due")
        position = tensor.stop
    if position != data_bytes:
        raise _Wrong(f"tensors of {position} bytes and {data_bytes} bytes of data")
    return tuple(tensors)


def _tensor(name: str, entry: object) -> TensorHeader:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise _Wrong(f"tensor {name!r} without dtype, shape and data_offsets")
    if dtype not in BYTES_OF_DTYPE:
        raise _Wrong(f"tensor {name!r} of the unknown dtype {dtype!r}")
    if len(shape) > MAX_DIMENSIONS or any(type(side) is not int or not 0 <= side < 1 << 62 for side in shape):
        raise _Wrong(f"tensor {name[:80]!r} of shape {str(shape[:8])[:80]}")
    if not 0 <= start <= stop or stop - start != math.prod(shape) * BYTES_OF_DTYPE[dtype]:
        raise _Wrong(f"tensor {name!r} of dtype {dtype} and shape {shape} in bytes [{start}, {stop})")
    return TensorHeader(name=name, dtype=dtype, shape=tuple(shape), start=start, stop=stop)
