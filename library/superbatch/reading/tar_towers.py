"""Towers of rows in WebDataset tars: members by byte range."""

from __future__ import annotations

from collections.abc import Sequence

from superbatch.formats.shards import ShardTable
from superbatch.reading.fetcher import Fetcher, Piece
from superbatch.reading.json_fields import text_in
from superbatch.reading.ranges import ByteRange
from superbatch.reading.rows import Located, Towers


class TarTowers:
    """Reads members of tars where the batch list says they begin; the tars' headers are not looked at.

    Args:
        fetcher: fetches the pieces.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def read(self, rows: Sequence[Located], table: ShardTable) -> list[Towers]:
        """Return the towers of each row.

        Raises:
            UnreadableExample: bytes could not be read, or a caption's JSON has no such field.
            InvalidInput: an offset without a length.
        """
        pieces = [_piece(row, tower) for row in rows for tower in ("a", "b")]
        found = iter(self._fetcher.fetch([piece for piece in pieces if piece]))
        contents = [next(found) if piece else b"" for piece in pieces]
        field = (table.caption_field or "").partition(":")[2]
        return [
            Towers(a, text_in(b, field, row.row.caption_index, where=str(row.place)) if field else b)
            for row, a, b in zip(rows, contents[::2], contents[1::2], strict=True)
        ]


def _piece(row: Located, tower: str) -> Piece | None:
    offset = getattr(row.row, f"{tower}_offset")
    return None if offset is None else Piece(row.place, ByteRange(offset, row.whole_number(f"{tower}_length")))
