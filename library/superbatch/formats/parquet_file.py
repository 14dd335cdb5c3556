"""Small Parquet files with the same bytes for the same content, and a reader that trusts nothing.

Row groups are written as given, compressed with zstd, every page with a checksum. The file's key-value metadata holds
`superbatch.file_kind`, `superbatch.format_version` and what the format adds. No time, host, job or Arrow schema is
stored; `created_by` names the version of pyarrow, the only part that a newer pyarrow changes by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.formats.errors import CorruptFile
from superbatch.formats.json_fields import FORMAT_VERSION, check_major_version

FILE_KIND_KEY = "superbatch.file_kind"
VERSION_KEY = "superbatch.format_version"
FINGERPRINT_KEY = "superbatch.dataset_fingerprint"
_LARGEST_GROUP_ROWS = 1 << 30


def render_parquet(
    groups: Iterable[pa.Table], schema: pa.Schema, *, file_kind: str, metadata: Mapping[str, str]
) -> bytes:
    """Return a Parquet file with one row group per table.

    Args:
        groups: tables of exactly `schema`; an empty table gives an empty row group.
        schema: columns of the format.
        file_kind: name of the format, stored in the metadata.
        metadata: further key-value metadata.
    Returns:
        The bytes of the file.
    """
    out = BytesIO()
    with pq.ParquetWriter(
        out,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
        write_statistics=False,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=_LARGEST_GROUP_ROWS)
        writer.add_key_value_metadata({FILE_KIND_KEY: file_kind, VERSION_KEY: FORMAT_VERSION, **metadata})
    return out.getvalue()


class ParquetSource:
    """An open Parquet file of a known kind, version and set of columns; further columns are ignored."""

    def __init__(self, source: bytes | str | os.PathLike[str], schema: pa.Schema, *, file_kind: str) -> None:
        self.where = f"{file_kind} of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        self._schema = schema
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            self._file = pq.ParquetFile(BytesIO(data), page_checksum_verification=True)
            stored = self._file.metadata.metadata or {}
            arrow_schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CorruptFile(
                f"a {file_kind} must be a whole Parquet file; {error} ({self.where}). Fetch it again."
            ) from error
        self.metadata: Mapping[str, str] = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in stored.items()
        }
        self._check(file_kind, arrow_schema)

    @property
    def num_groups(self) -> int:
        """Row groups in the file."""
        return int(self._file.metadata.num_row_groups)

    def text(self, key: str) -> str:
        """Return one entry of the file's metadata."""
        if key not in self.metadata:
            raise CorruptFile(f"the file metadata must hold {key}; got none ({self.where}). Fetch the file again.")
        return self.metadata[key]

    def fingerprint(self) -> bytes:
        """Return the dataset fingerprint in the file's metadata, 32 bytes."""
        return hex_digest(self.text(FINGERPRINT_KEY), where=self.where)

    def read_group(self, group: int) -> pa.RecordBatch:
        """Return the known columns of one row group, in the order of the format."""
        try:
            # One thread: the machine's cores belong to whoever trains on these rows, and a group takes milliseconds.
            table = self._file.read_row_group(group, columns=self._schema.names, use_threads=False)
            return one_batch(table.select(self._schema.names), self._schema)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CorruptFile(
                f"row group {group} must be readable; {error} ({self.where}). Fetch the file again."
            ) from error

    def read_column(self, name: str) -> pa.ChunkedArray:
        """Return one known column of all row groups."""
        try:
            return self._file.read(columns=[name]).column(name)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CorruptFile(
                f"column {name} must be readable; {error} ({self.where}). Fetch the file again."
            ) from error

    def _check(self, file_kind: str, arrow_schema: pa.Schema) -> None:
        if self.text(FILE_KIND_KEY) != file_kind:
            raise CorruptFile(f"the file must be a {file_kind}; got a {self.text(FILE_KIND_KEY)} ({self.where}).")
        check_major_version(self.text(VERSION_KEY), where=self.where)
        for field in self._schema:
            found = arrow_schema.get_field_index(field.name)
            if found < 0 or arrow_schema.field(found).type != field.type:
                got = "none or several" if found < 0 else str(arrow_schema.field(found).type)
                raise CorruptFile(
                    f"column {field.name} must be {field.type}; got {got} ({self.where}). Fetch the file again."
                )


def one_batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows of a table as one record batch of exactly `schema`."""
    whole = table.combine_chunks()
    columns = [
        column.chunk(0) if column.num_chunks else pa.array([], type=column.type) for column in whole.itercolumns()
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def hex_digest(text: str, *, where: str) -> bytes:
    """Return the 32 bytes that 64 hexadecimal digits spell.

    Raises:
        CorruptFile: anything else.
    """
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32 or len(text) != 64:
        raise CorruptFile(
            f"a digest must have 64 hexadecimal digits; got {text[:80]!r} ({where}). Fetch the file again."
        )
    return digest
