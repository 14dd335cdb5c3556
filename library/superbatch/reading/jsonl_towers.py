"""Towers of rows in JSONL shards: files by path, and fields of the row's line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from superbatch.formats.shards import ShardTable
from superbatch.reading.fetcher import Fetcher, Piece
from superbatch.reading.json_fields import text_in
from superbatch.reading.ranges import ByteRange
from superbatch.reading.rows import Located, Place, Towers


class JsonlTowers:
    """Reads a tower from the file that `a_path` or `b_path` names, a key in the shard's root.

    Where the path is null, the tower is the field `a_field` or `caption_field` of the row's line, the bytes
    [sample_offset, sample_offset + sample_length) of the shard; where the table names no field, it is missing.

    Args:
        fetcher: fetches the files.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def read(self, rows: Sequence[Located], table: ShardTable) -> list[Towers]:
        """Return the towers of each row.

        Raises:
            UnreadableExample: a file or line could not be read, a file is too large, a line has no such field.
            InvalidInput: a row that needs its line and has no offset; a path that could leave its root.
        """
        files = iter(self._fetcher.fetch_files([place for row in rows for place in _files_of(row)]))
        field_b = table.caption_field
        lines = self._lines([row for row in rows if _needs_line(row, table)])
        return [
            Towers(
                next(files) if row.row.a_path is not None else _text(row, table.a_field, None, lines),
                next(files) if row.row.b_path is not None else _text(row, field_b, row.row.caption_index, lines),
            )
            for row in rows
        ]

    def _lines(self, rows: Sequence[Located]) -> dict[tuple[int, int], bytes]:
        """Return the line per (shard_id, sample_offset)."""
        ranges = [ByteRange(row.whole_number("sample_offset"), row.whole_number("sample_length")) for row in rows]
        found = self._fetcher.fetch([Piece(row.place, wanted) for row, wanted in zip(rows, ranges, strict=True)])
        keys = [(row.row.shard_id, wanted.offset) for row, wanted in zip(rows, ranges, strict=True)]
        return dict(zip(keys, found, strict=True))


def _files_of(row: Located) -> Iterator[Place]:
    for path in (row.row.a_path, row.row.b_path):
        if path is not None:
            yield row.place._replace(key=path)


def _needs_line(row: Located, table: ShardTable) -> bool:
    return (row.row.a_path is None and table.a_field is not None) or (
        row.row.b_path is None and table.caption_field is not None
    )


def _text(row: Located, field: str | None, index: int | None, lines: dict[tuple[int, int], bytes]) -> bytes:
    if field is None:
        return b""
    line = lines[row.row.shard_id, row.whole_number("sample_offset")]
    return text_in(line, field, index, where=str(row.place))
