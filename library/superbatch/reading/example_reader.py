"""Reads the examples of a batch by random access: few joined reads per shard, no row ever dropped."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from superbatch.formats.errors import DigestMismatch
from superbatch.formats.shards import ShardTable
from superbatch.formats.uid import uid_of_bytes
from superbatch.reading.addresses import Address, open_source
from superbatch.reading.fetcher import Fetcher
from superbatch.reading.jsonl_towers import JsonlTowers
from superbatch.reading.parquet_towers import ParquetTowers
from superbatch.reading.rows import Located, Towers, located_rows
from superbatch.reading.tar_towers import TarTowers
from superbatch.reading.tries import Tries


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch with the stored bytes of its towers (b"" = missing): encoded picture and caption in UTF-8."""

    uid: bytes
    dataset_index: int
    slot: int
    variant: int
    a: bytes
    b: bytes


class TowerReader(Protocol):
    """Reads rows of the shards of one format.

    The law: one answer per row, in order, or an error.
    """

    def read(self, rows: Sequence[Located], table: ShardTable) -> list[Towers]:
        """Return the towers of each row."""
        ...


class ExampleReader:
    """Reads rows of batch lists from the shards they point to.

    It may be pickled and used in forked processes (not by several threads at once); each process opens its own
    connections.

    Args:
        roots: per name of a root its local path, its URL (`file://`, `http://`, `https://`, `s3://`, `gs://`,
            `abfs://`), or a source made by the caller.
        gap_bytes: ranges of one shard at most this far apart become one read; None for 64 KiB in local files and 512
            KiB elsewhere.
        num_attempts: tries per read before UnreadableExample.
        first_delay_s: pause before the second try; each further pause is four times as long.
        check_uids: recompute every uid from the bytes read, at about 1 ms per MB. The rows of a shard that changes
            while this reader is at work are checked in any case.
        num_threads: reads under way at once from roots that are not local.
        cache_bytes: decoded row groups of Parquet shards kept for later batches.
        sleep: called with a pause in seconds.
    Raises:
        InvalidInput: num_attempts or num_threads below 1, a URL of another kind.
    """

    def __init__(
        self,
        roots: Mapping[str, Address],
        *,
        gap_bytes: int | None = None,
        num_attempts: int = 4,
        first_delay_s: float = 0.1,
        check_uids: bool = False,
        num_threads: int = 16,
        cache_bytes: int = 256 << 20,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        sources = {root: open_source(address, root=root) for root, address in roots.items()}
        tries = Tries(num_attempts, first_delay_s, sleep)
        self._fetcher = Fetcher(sources, tries=tries, gap_bytes=gap_bytes, num_threads=num_threads)
        self._parquet = ParquetTowers(self._fetcher, cache_bytes=cache_bytes)
        self._readers: dict[str, TowerReader] = {
            "webdataset": TarTowers(self._fetcher),
            "parquet": self._parquet,
            "jsonl": JsonlTowers(self._fetcher),
        }
        self._check_uids = check_uids
        self.bytes_used = 0

    @property
    def bytes_read(self) -> int:
        """Bytes read from shards so far, wanted or not; `bytes_used` counts those of the examples handed out."""
        return self._fetcher.bytes_read

    def read_rows(self, rows: pa.RecordBatch, shard_table: ShardTable) -> list[Example]:
        """Return the examples of some rows of a batch list, in the order of the rows.

        Args:
            rows: a batch, or a slice of one (`batch.slice(start, length)`).
            shard_table: shard table of the dataset.
        Returns:
            One example per row, never fewer.
        Raises:
            UnreadableExample: bytes could not be read after all tries, a shard has no such row, or no text stands where
                the caption should be. The message names row, shard and key.
            DigestMismatch: with check_uids, or after a shard has changed: content that is not what was selected.
            InvalidInput: a shard that the table lacks, a row without the columns of its shard's format, a root without
                an address, a key that could leave its root.
        Cost: one read per run of near rows of a shard, or per near columns of a row group. Memory: the examples, the
            reads of at most 64 MiB beside them (or of one longer example or row group), and `cache_bytes`.
        """
        located = located_rows(rows, shard_table)
        positions_by_format: defaultdict[str, list[int]] = defaultdict(list)
        for position, row in enumerate(located):
            positions_by_format[row.shard.format].append(position)
        examples: dict[int, Example] = {}
        for format, positions in positions_by_format.items():
            towers = self._readers[format].read([located[position] for position in positions], shard_table)
            for position, found in zip(positions, towers, strict=True):
                examples[position] = self._example(located[position], found)
        return [examples[position] for position in range(len(located))]

    def close(self) -> None:
        """Give threads, connections and kept row groups back; a later read starts anew."""
        self._parquet.close()
        self._fetcher.close()

    def _example(self, located: Located, towers: Towers) -> Example:
        row, (a, b) = located.row, towers
        self.bytes_used += len(a) + len(b)
        if (self._check_uids or self._fetcher.has_changed(located.place)) and uid_of_bytes(a, b) != row.uid:
            raise DigestMismatch(
                f"content must have the uid it was selected under, {row.uid.hex()}; "
                f"got {uid_of_bytes(a, b).hex()} ({located.place}). "
                "The shard changed after the dataset was registered: restore it, or register a new dataset."
            )
        return Example(row.uid, row.dataset_index, row.slot, row.variant, a, b)
