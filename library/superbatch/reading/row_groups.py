"""Decoded row groups of Parquet shards: only the wanted columns, the newest kept within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.formats.errors import UnreadableExample
from superbatch.reading.fetcher import Fetcher, Piece
from superbatch.reading.parquet_footers import TAIL_BYTES, DamagedShard, Footer, footer_bytes, parse_footer
from superbatch.reading.ranges import ByteRange, parts_of
from superbatch.reading.rows import Place
from superbatch.reading.sources import Answer
from superbatch.reading.sparse_file import SparseFile

_MAX_FOOTERS = 256


class Group(NamedTuple):
    """Some columns of a row group of a shard, and the row that wants them first."""

    place: Place
    row_group: int
    fields: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, int, tuple[str, ...]]:
        """What is the same for all rows of the group."""
        return self.place.root, self.place.key, self.row_group, self.fields


class RowGroups:
    """Reads row groups: whole chunks of the wanted columns, because pyarrow does not tell where pages begin.

    Args:
        fetcher: fetches the chunks.
        cache_bytes: decoded row groups kept for later batches, the newest; 0 for none.
    """

    def __init__(self, fetcher: Fetcher, *, cache_bytes: int) -> None:
        self._fetcher = fetcher
        self._cache_bytes = cache_bytes
        self._tables: OrderedDict[tuple[str, str, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._footers: OrderedDict[tuple[str, str], Footer] = OrderedDict()
        self._kept_bytes = 0

    def read(self, groups: Sequence[Group]) -> Iterator[tuple[Group, pa.Table]]:
        """Yield each group with its rows, kept ones first.

        Args:
            groups: no group twice.
        Raises:
            UnreadableExample: not after all tries; also: no such row group or column.
        Cost: memory: chunks of at most 64 MiB or one larger group, one decoded group, and the kept ones.
        """
        wanted = []
        for group in groups:
            if table := self._tables.get(group.key):
                self._tables.move_to_end(group.key)
                yield group, table
            else:
                wanted.append(group)
        for some in parts_of(wanted, lambda _: 1, max_bytes=_MAX_FOOTERS):
            self._load_footers([group.place for group in some])
            for part in parts_of(some, self._num_bytes):
                yield from self._read_part(part)

    def close(self) -> None:
        """Keep nothing."""
        self._tables.clear()
        self._footers.clear()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, object]:
        """Leave decoded rows and footers behind: another process reads its own."""
        return {**vars(self), "_tables": OrderedDict(), "_footers": OrderedDict(), "_kept_bytes": 0}

    def _read_part(self, groups: Sequence[Group]) -> Iterator[tuple[Group, pa.Table]]:
        """Fetch the chunks of all groups at once, then decode one after another; what fails is read anew."""
        for group, blocks in zip(groups, self._fetched(groups), strict=True):
            try:
                table = self._decoded(group, blocks)
            except DamagedShard:
                table = self._read_anew(group)
            self._keep(group, table)
            yield group, table

    def _fetched(self, groups: Sequence[Group]) -> list[list[tuple[int, bytes]]]:
        """Return offset and bytes of the chunks per group; none where the footer is in doubt, or out of date."""
        ranges = [self._chunks(group) for group in groups]
        places = [group.place for group, wanted in zip(groups, ranges, strict=True) for _ in wanted]
        try:
            blocks = iter(self._fetcher.fetch([*map(Piece, places, chain.from_iterable(ranges))]))
        except UnreadableExample:  # a shorter file may have taken the place of the one whose footer is known
            for group in groups:
                self._footers.pop(group.place[:2], None)
            return [[] for _ in groups]
        return [[(each.offset, next(blocks)) for each in wanted] for wanted in ranges]

    def _read_anew(self, group: Group) -> pa.Table:
        """Return a group whose first reading failed, from a footer read again: the shard may have been replaced."""

        def attempt() -> pa.Table:
            self._footers.pop(group.place[:2], None)
            self._load_footers([group.place])
            wanted = self._footer(group).chunks(group.row_group, group.fields)
            blocks = self._fetcher.fetch([Piece(group.place, each) for each in wanted])
            return self._decoded(group, [(each.offset, block) for each, block in zip(wanted, blocks, strict=True)])

        try:
            return self._fetcher.tries.call(attempt)
        except OSError as error:
            raise self._fetcher.unreadable(group.place, error) from error

    def _decoded(self, group: Group, blocks: Sequence[tuple[int, bytes]]) -> pa.Table:
        footer = self._footer(group)
        if self._fetcher.version(group.place) != footer.version:
            raise DamagedShard("the shard was changed while it was read")

        def fetch(wanted: ByteRange) -> bytes:
            return self._fetcher.fetch([Piece(group.place, wanted)])[0]

        try:
            names = footer.column_names(group.fields)
            source = SparseFile(footer.size_bytes, blocks, fetch=fetch)
            file = pq.ParquetFile(source, metadata=footer.metadata, page_checksum_verification=True, pre_buffer=False)
            return file.read_row_group(group.row_group, columns=names, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedShard(f"row group {group.row_group} cannot be decoded; {error}") from error

    def _keep(self, group: Group, table: pa.Table) -> None:
        self._tables[group.key] = table
        self._kept_bytes += table.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= self._tables.popitem(last=False)[1].nbytes

    def _footer(self, group: Group) -> Footer:
        if group.place[:2] not in self._footers:
            raise DamagedShard("the shard must have the footer of a Parquet file")
        return self._footers[group.place[:2]]

    def _chunks(self, group: Group) -> list[ByteRange]:
        """Return where the chunks of a group lie; none if the footer is in doubt."""
        try:
            return self._footer(group).chunks(group.row_group, group.fields)
        except DamagedShard:
            return []

    def _num_bytes(self, group: Group) -> int:
        return sum(wanted.length for wanted in self._chunks(group))

    def _load_footers(self, places: Sequence[Place]) -> None:
        """Read the footers that are not here yet; a damaged one stays away."""
        new = {place[:2]: place for place in places if place[:2] not in self._footers}
        for place in places:
            if place[:2] in self._footers:
                self._footers.move_to_end(place[:2])
        for place, answer in zip(new.values(), self._fetcher.fetch_tails([*new.values()], TAIL_BYTES), strict=True):
            with suppress(DamagedShard):
                self._footers[place[:2]] = self._whole_footer(place, answer)
        while len(self._footers) > _MAX_FOOTERS:
            self._footers.popitem(last=False)

    def _whole_footer(self, place: Place, answer: Answer) -> Footer:
        tail, size_bytes = answer.parts[0], answer.size_bytes or 0
        needed = footer_bytes(tail)
        if needed > len(tail) and needed <= size_bytes:
            tail = self._fetcher.fetch([Piece(place, ByteRange(size_bytes - needed, needed))])[0]
        return parse_footer(tail, size_bytes=size_bytes, version=answer.version)
