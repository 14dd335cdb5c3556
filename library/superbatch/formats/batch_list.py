"""The batch list: a Parquet file in which one row group is one batch of b rows, in slot order.

Legend: b rows of a batch, L batches of a list. File metadata: format version, dataset fingerprint, batch digests.
Every column is always present, and null where it does not apply to the format of the shard.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import pyarrow as pa

from superbatch.formats.batch_rows import BATCH_LIST_SCHEMA, batch_rows, digest_of_rows, first_seq_of, problem_of
from superbatch.formats.errors import CorruptFile, DigestMismatch, InvalidInput
from superbatch.formats.parquet_file import FINGERPRINT_KEY, ParquetSource, hex_digest, render_parquet

__all__ = [
    "BATCH_LIST_SCHEMA",
    "BatchListReader",
    "batch_rows",
    "digest_of_rows",
    "list_name",
    "parse_list_name",
    "read_uids",
    "write_batch_list",
]

FILE_KIND = "batch-list"
BATCH_DIGESTS_KEY = "superbatch.batch_digests"

_NAME = re.compile(r"(?:lists/)?(\d{12})-(\d{12})-([0-9a-f]{16})\.parquet")


def write_batch_list(batches: Sequence[pa.Table | pa.RecordBatch], *, fingerprint: bytes) -> bytes:
    """Return the bytes of a batch list; the same batches always give the same bytes under one version of pyarrow.

    Args:
        batches: L >= 1 batches of b rows each, of consecutive seq, each with slots 0 .. b-1 in order; columns as
            `batch_rows` takes them.
        fingerprint: dataset fingerprint, 32 bytes.
    Returns:
        A Parquet file with L row groups.
    Raises:
        InvalidInput: batches of unequal length or out of order, slots out of order, a uid twice in a batch, a score or
            loss that is not finite, a column missing, unknown or of another type.
    Source: trainer-contract.md, Batch list.
    """
    if not batches:
        raise InvalidInput("a batch list holds at least one batch; got none. Write nothing instead.")
    tables = [batch_rows(dict(zip(batch.schema.names, batch.columns, strict=True))) for batch in batches]
    first_seq, b = first_seq_of(tables[0]), tables[0].num_rows
    for position, table in enumerate(tables):
        problem = problem_of(table, seq=first_seq + position, b=b)
        if problem:
            raise InvalidInput(f"{problem} (batch {position} of the list). Give whole batches in slot order.")
    digests = [digest_of_rows(table, fingerprint=fingerprint) for table in tables]
    metadata = {FINGERPRINT_KEY: fingerprint.hex(), BATCH_DIGESTS_KEY: ",".join(digest.hex() for digest in digests)}
    return render_parquet(tables, BATCH_LIST_SCHEMA, file_kind=FILE_KIND, metadata=metadata)


class BatchListReader:
    """Reads a batch list and proves every batch it hands out.

    Args:
        source: the bytes of the file, or its path.
    Raises:
        CorruptFile: no Parquet file, another kind of file, a column missing or of another type.
        UnsupportedVersion: another major version.
        OSError: the path cannot be read.
    """

    def __init__(self, source: bytes | str | os.PathLike[str]) -> None:
        self._source = ParquetSource(source, BATCH_LIST_SCHEMA, file_kind=FILE_KIND)
        self.fingerprint = self._source.fingerprint()
        self.batch_digests = tuple(
            hex_digest(text, where=self._source.where) for text in self._source.text(BATCH_DIGESTS_KEY).split(",")
        )
        if len(self.batch_digests) != self._source.num_groups:
            raise CorruptFile(
                "a batch list has one digest per row group; "
                f"got {len(self.batch_digests)} for {self._source.num_groups} "
                f"({self._source.where}). Fetch the file again."
            )
        first = self._source.read_group(0)
        try:
            self.first_seq, self.b = first_seq_of(first), first.num_rows
        except InvalidInput as error:
            raise CorruptFile(f"{error} ({self._source.where})") from error

    @property
    def num_batches(self) -> int:
        """L, the number of batches in the list."""
        return len(self.batch_digests)

    def read(self, position: int) -> pa.RecordBatch:
        """Return one batch, all columns of the format, in slot order.

        Args:
            position: 0 .. L-1; the batch is that of seq first_seq + position.
        Raises:
            InvalidInput: a position outside the list.
            CorruptFile: damaged pages, a batch of another length or seq, slots out of order, a uid twice, a null where
                none may be.
            DigestMismatch: the rows do not have the digest that the file states for them.
        """
        if not 0 <= position < self.num_batches:
            raise InvalidInput(f"position must be in [0, {self.num_batches}); got {position} ({self._source.where}).")
        rows = self._source.read_group(position)
        seq = self.first_seq + position
        problem = problem_of(rows, seq=seq, b=self.b)
        if problem:
            raise CorruptFile(f"{problem} (seq {seq}, {self._source.where}). Fetch the list again.")
        try:
            found = digest_of_rows(rows, fingerprint=self.fingerprint)
        except InvalidInput as error:
            raise CorruptFile(f"{error} ({self._source.where})") from error
        if found != self.batch_digests[position]:
            raise DigestMismatch(
                f"rows must have the batch digest of their file, {self.batch_digests[position].hex()}; "
                f"got {found.hex()} "
                f"(seq {seq}, {self._source.where}). Fetch the list again."
            )
        return rows


def read_uids(source: bytes | str | os.PathLike[str]) -> pa.ChunkedArray:
    """Return the uid of every row of every batch of a list, in order: L * b values of 16 bytes.

    Reads that column alone and proves no batch digest: for a file whose own sha256 was checked.

    Args:
        source: the bytes of the file, or its path.
    Raises:
        CorruptFile: as `BatchListReader`, or damaged pages of this column.
        UnsupportedVersion: another major version.
        OSError: the path cannot be read.
    """
    return ParquetSource(source, BATCH_LIST_SCHEMA, file_kind=FILE_KIND).read_column("uid")


def list_name(first_seq: int, stop_seq: int, sha256_hex: str) -> str:
    """Return the name of the list of batches [first_seq, stop_seq): <first>-<stop>-<16 hex>.parquet, 12 digits each.

    It lies in the folder lists/ of its job.

    Args:
        first_seq: seq of its first batch.
        stop_seq: seq after its last batch.
        sha256_hex: digest of the file, 64 hexadecimal digits.
    Raises:
        InvalidInput: an empty range, a seq of more than 12 digits, no sha256.
    """
    if not 0 <= first_seq < stop_seq < 10**12 or not re.fullmatch(r"[0-9a-f]{64}", sha256_hex):
        raise InvalidInput(
            "a list is named after a range of seqs below 10^12 and its sha256; "
            f"got [{first_seq}, {stop_seq}), {sha256_hex!r}."
        )
    return f"{first_seq:012d}-{stop_seq:012d}-{sha256_hex[:16]}.parquet"


def parse_list_name(name: str) -> tuple[int, int, str]:
    """Return (first_seq, stop_seq, first 16 hexadecimal digits of the sha256) from a list's name.

    Args:
        name: as `list_name` gives it, with or without the folder lists/.
    Raises:
        InvalidInput: another name.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise InvalidInput(f"a list is named <first>-<stop>-<16 hex>.parquet with 12 digits; got {name[:120]!r}.")
    return int(match[1]), int(match[2]), match[3]
