"""Footers of Parquet shards: where the chunks of the wanted columns lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.reading.ranges import ByteRange

MAGIC = b"PAR1"
TAIL_BYTES = 64 << 10
"""Read at once from the end of a shard: the footers of most shards fit."""


class DamagedShard(OSError):
    """A shard is not, or no longer, the Parquet file that it should be; reading it anew may help."""


@dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file says.

    size_bytes, version: of the file, when its footer was read.
    """

    metadata: pq.FileMetaData
    size_bytes: int
    version: str

    def leaves(self, field: str) -> list[int]:
        """Return the leaf columns of a field: the column of this name or path ("meta.caption"), and those inside it.

        Raises:
            DamagedShard: there is none.
        """
        paths = [self.metadata.schema.column(index).path for index in range(self.metadata.num_columns)]
        found = [index for index, path in enumerate(paths) if path == field or path.startswith(f"{field}.")]
        if not found:
            raise DamagedShard(f"the shard must have the column {field!r}; got only {paths[:20]}")
        return found

    def column_names(self, fields: Sequence[str]) -> list[str]:
        """Return the paths of all leaf columns of some fields."""
        return [self.metadata.schema.column(leaf).path for field in fields for leaf in self.leaves(field)]

    def chunks(self, row_group: int, fields: Sequence[str]) -> list[ByteRange]:
        """Return where the chunks of some fields lie in a row group.

        Raises:
            DamagedShard: no such row group or field.
        """
        if not 0 <= row_group < self.metadata.num_row_groups:
            raise DamagedShard(f"row_group must be in [0, {self.metadata.num_row_groups}); got {row_group}")
        group = self.metadata.row_group(row_group)
        return [_range(group.column(leaf)) for field in fields for leaf in self.leaves(field)]


def footer_bytes(tail: bytes) -> int:
    """Return how many bytes the footer takes, with length and magic, from the last bytes of a file.

    Raises:
        DamagedShard: no Parquet file ends like this.
    """
    if len(tail) < 12 or tail[-4:] != MAGIC:
        raise DamagedShard("the shard must end like a Parquet file; it is cut off, encrypted or something else")
    return int.from_bytes(tail[-8:-4], "little") + 8


def parse_footer(tail: bytes, *, size_bytes: int, version: str) -> Footer:
    """Return the footer in the last bytes of a file.

    Raises:
        DamagedShard: the metadata cannot be read.
    """
    try:
        metadata = pq.read_metadata(BytesIO(tail[-footer_bytes(tail) :]))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedShard(f"the shard must have the footer of a Parquet file; {error}") from error
    return Footer(metadata, size_bytes, version)


def _range(chunk: pq.ColumnChunkMetaData) -> ByteRange:
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    return ByteRange(start, chunk.total_compressed_size)
