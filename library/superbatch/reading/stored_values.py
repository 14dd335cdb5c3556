"""The stored bytes of a value in a Parquet column."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa


class FilePath(NamedTuple):
    """A value that is a file: its key in the root of the shard."""

    key: str


def value_at(table: pa.Table, field: str, row: int) -> pa.Scalar:
    """Return the value of a column, or of a member inside one ("meta.caption"), at a row.

    Raises:
        KeyError: no such column or member.
    """
    if field in table.column_names:
        return table.column(field)[row]
    name, _, rest = field.partition(".")
    value = table.column(name)[row]
    while rest and value.is_valid:
        if rest in value:
            return value[rest]
        name, _, rest = rest.partition(".")
        value = value[name]
    return value


def stored_bytes(value: pa.Scalar, index: int | None) -> bytes | FilePath:
    """Return the bytes of a value as stored, b"" for null: text in UTF-8, unchecked; the entry of a list.

    Args:
        value: text or bytes, a list of them, or struct{bytes, path}.
        index: which entry of a list; None for the first.
    Returns:
        The bytes; of a struct without bytes its path.
    Raises:
        IndexError: no such entry.
        TypeError: something else.
    """
    if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar):
        return stored_bytes(value.value, index)
    if not value.is_valid:
        return b""
    if isinstance(value, pa.BinaryScalar):
        return bytes(value.as_buffer())
    if isinstance(value, pa.ListScalar):
        return stored_bytes(value[index or 0], index)
    if isinstance(value, pa.StructScalar) and "bytes" in value:
        if not value["bytes"].is_valid and "path" in value and value["path"].is_valid:
            return FilePath(value["path"].as_py())
        return stored_bytes(value["bytes"], index)
    raise TypeError(f"a {value.type} stands there")
