"""Bytes of one row, read by range from the shard that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from superbatch_server.schemas.errors import ApiError
from superbatch_server.service.scored_batches.row_places import CAPTION_CHARS, RowPlace
from superbatch_server.storage.roots import Root, find_root

_BYTES_PER_CHAR = 4


def read_part(root: Root, key: str, *, offset: int, length: int) -> bytes:
    """Return bytes [offset, offset + length) of an object; fewer where it ends before.

    Raises: ApiError when the object is gone or its store does not answer.
    """
    with root.open(key) as file:
        file.seek(offset)
        return file.read(length)


def stored_caption(roots: Mapping[str, Root], root_name: str, row: RowPlace) -> RowPlace:
    """Return the row with the beginning of its caption as the shard has it; unchanged where that cannot be read."""
    if row.b_offset is None or row.b_length is None:
        return row
    try:
        root = find_root(roots, root_name)
        length = min(row.b_length, CAPTION_CHARS * _BYTES_PER_CHAR)
        content = read_part(root, row.shard.key, offset=row.b_offset, length=length)
    except (ApiError, OSError):
        return row
    return replace(row, caption=content.decode("utf-8", errors="replace").strip()[:CAPTION_CHARS] or None)
