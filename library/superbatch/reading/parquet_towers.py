"""Towers of rows in Parquet shards: values of two columns by row group and row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from superbatch.formats.errors import InvalidInput, UnreadableExample
from superbatch.formats.shards import ShardTable
from superbatch.reading.fetcher import Fetcher
from superbatch.reading.row_groups import Group, RowGroups
from superbatch.reading.rows import Located, Towers
from superbatch.reading.stored_values import FilePath, stored_bytes, value_at


class ParquetTowers:
    """Reads the columns `a_field` and `caption_field` of the rows' row groups.

    A column may be nested ("meta.caption"), a list of which `caption_index` is wanted, text or bytes of any width, or
    a picture as Hugging Face writes it, struct{bytes, path}; without bytes there, the path is a key in the same root.

    Args:
        fetcher: fetches the chunks.
        cache_bytes: decoded row groups kept for later batches.
    """

    def __init__(self, fetcher: Fetcher, *, cache_bytes: int) -> None:
        self._fetcher = fetcher
        self._row_groups = RowGroups(fetcher, cache_bytes=cache_bytes)

    def read(self, rows: Sequence[Located], table: ShardTable) -> list[Towers]:
        """Return the towers of each row.

        Raises:
            UnreadableExample: a shard could not be read, or has no such row or column, or something else than text or
                bytes there.
            InvalidInput: a shard table without `a_field`, a row without row group.
        """
        fields = _fields(table)
        positions: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        groups: dict[tuple[object, ...], Group] = {}
        for position, row in enumerate(rows):
            group = Group(row.place, row.whole_number("row_group"), fields)
            positions[group.key].append(position)
            groups.setdefault(group.key, group)
        found: dict[int, list[bytes | FilePath]] = {}
        for group, content in self._row_groups.read([*groups.values()]):
            for position in positions[group.key]:
                found[position] = [_value(content, field, rows[position], tower) for tower, field in enumerate(fields)]
        return self._with_files([found[position] for position in range(len(rows))], rows)

    def close(self) -> None:
        """Keep no decoded row group."""
        self._row_groups.close()

    def _with_files(self, values: Sequence[Sequence[bytes | FilePath]], rows: Sequence[Located]) -> list[Towers]:
        """Return the towers of each row, with the content of files where a value is a path."""
        places = [
            row.place._replace(key=value.key)
            for row, of_row in zip(rows, values, strict=True)
            for value in of_row
            if isinstance(value, FilePath)
        ]
        files = iter(self._fetcher.fetch_files(places))
        contents = ([next(files) if isinstance(value, FilePath) else value for value in of_row] for of_row in values)
        return [Towers(content[0], content[1] if len(content) > 1 else b"") for content in contents]


def _fields(table: ShardTable) -> tuple[str, ...]:
    if table.a_field is None:
        raise InvalidInput(
            "the shard table of a Parquet data set names the column of tower a; got null (shard table, a_field)."
        )
    return (table.a_field,) if table.caption_field is None else (table.a_field, table.caption_field)


def _value(content: pa.Table, field: str, row: Located, tower: int) -> bytes | FilePath:
    row_in_group = row.whole_number("row_in_group")
    if not 0 <= row_in_group < content.num_rows:
        raise UnreadableExample(
            f"row_in_group must be in [0, {content.num_rows}); got {row_in_group} "
            f"({row.place}, row group {row.row.row_group}). Restore the shard as it was registered."
        )
    try:
        return stored_bytes(value_at(content, field, row_in_group), row.row.caption_index if tower else None)
    except (LookupError, TypeError, ValueError) as error:
        raise UnreadableExample(f"column {field!r} must hold text or bytes; {error!r} ({row.place}).") from error
