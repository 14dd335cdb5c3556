"""Writes the tar of one rank and micro-step: the same rows always give the same bytes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from typing import BinaryIO

from superbatch.formats.errors import UnreadableExample
from superbatch.formats.tar_members import BLOCK_BYTES
from superbatch.reading import Example
from superbatch.webdataset.layout import sample_key

END_MARKER = bytes(2 * BLOCK_BYTES)


def write_tar(out: BinaryIO, examples: Sequence[Example], *, seq: int, with_metadata: bool = False) -> int:
    """Write rows of a batch as a WebDataset tar and return its length in bytes.

    Per row, in order: the picture as stored (`<key>.jpg`, `.png` or `.webp`, by its first bytes) and the caption as
    stored (`<key>.txt`). Headers are ustar with mode 0644 and neither time nor owner; the tar ends with two empty
    blocks.

    Args:
        out: where to write, at its position.
        examples: rows of batch `seq` in slot order.
        seq: position of the batch in the log.
        with_metadata: also write `<key>.json`: uid, seq, slot, variant, dataset_index.
    Raises:
        UnreadableExample: a picture of another format, which a stock reader would drop.
    Cost: 512 bytes per member, and its content padded to 512.
    """
    length = 0
    for example in examples:
        key = sample_key(seq, example.slot, example.uid)
        length += _write_member(out, f"{key}.{picture_suffix(example.a, where=key)}", example.a)
        length += _write_member(out, f"{key}.txt", example.b)
        if with_metadata:
            length += _write_member(out, f"{key}.json", _metadata(example, seq))
    return length + out.write(END_MARKER)


def picture_suffix(content: bytes, *, where: str) -> str:
    """Return the suffix by which readers know the format of a picture: jpg, png or webp.

    Raises:
        UnreadableExample: another format. Stock readers choose the decoder by the suffix, and drop what has none.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    raise UnreadableExample(
        f"a picture in a WebDataset tar must be JPEG, PNG or WebP; got bytes {content[:8].hex(' ') or 'none'} "
        f"({where}). Read this job with superbatch.torch, which hands out the bytes as they are."
    )


def _write_member(out: BinaryIO, name: str, content: bytes) -> int:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    parts = (header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK_BYTES))
    return sum(out.write(part) for part in parts)


def _metadata(example: Example, seq: int) -> bytes:
    fields = {
        "uid": example.uid.hex(),
        "seq": seq,
        "slot": example.slot,
        "variant": example.variant,
        "dataset_index": example.dataset_index,
    }
    return json.dumps(fields, separators=(",", ":")).encode()
