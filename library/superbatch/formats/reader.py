"""Reads the examples of a batch by random access: few joined reads per shard, no row ever dropped."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from superbatch.formats.errors import DigestMismatch, InvalidInput, UnreadableExample
from superbatch.formats.locators import COALESCE_GAP_BYTES, ByteRange, LocalRanges, RangeSource, Run, coalesce, parts_of
from superbatch.formats.shards import ShardEntry, ShardTable
from superbatch.formats.uid import uid_of_bytes

_COLUMNS = [
    *("uid", "dataset_index", "slot", "variant", "shard_id", "caption_index"),
    *("a_offset", "a_length", "b_offset", "b_length"),
]
_Row = Mapping[str, int | str | bytes | float | None]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch with the stored bytes of its towers (b"" = missing): encoded picture and caption in UTF-8."""

    uid: bytes
    dataset_index: int
    slot: int
    variant: int
    a: bytes
    b: bytes


class ExampleReader:
    """Reads rows of batch lists from the shards they point to.

    Args:
        roots: local path per name of a root.
        source: reads byte ranges; None for local files below `roots`.
        gap_bytes: ranges of one shard at most this far apart become one read.
        num_attempts: tries per read before UnreadableExample.
        first_delay_s: pause before the second try; each further pause is four times as long.
        check_uids: recompute every uid from the bytes read, at about 1 ms per MB.
        sleep: called with a pause in seconds.
    """

    def __init__(
        self,
        roots: Mapping[str, str | os.PathLike[str]],
        *,
        source: RangeSource | None = None,
        gap_bytes: int = COALESCE_GAP_BYTES,
        num_attempts: int = 4,
        first_delay_s: float = 0.1,
        check_uids: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if num_attempts < 1:
            raise InvalidInput(f"num_attempts must be at least 1; got {num_attempts}. Use 1 for no second try.")
        self._source = LocalRanges(roots) if source is None else source
        self._gap_bytes = gap_bytes
        self._num_attempts = num_attempts
        self._first_delay_s = first_delay_s
        self._check_uids = check_uids
        self._sleep = sleep
        self.bytes_read = 0
        self.bytes_used = 0

    def read_rows(self, rows: pa.RecordBatch, shard_table: ShardTable) -> list[Example]:
        """Return the examples of some rows of a batch list, in the order of the rows.

        Args:
            rows: a batch, or a slice of one (`batch.slice(start, length)`).
            shard_table: shard table of the dataset.
        Returns:
            One example per row, never fewer.
        Raises:
            UnreadableExample: bytes could not be read after all tries, or a caption's JSON has no such field.
            DigestMismatch: with check_uids, content that is not what was selected.
            InvalidInput: a shard that the table lacks, a shard format without byte ranges, a root without a path, a key
                that could leave its root.
        Cost: one read per run of near rows of a shard; `bytes_read` and `bytes_used` count both sides. Memory: the
            examples, and the reads of at most 64 MiB (MAX_RUN_BYTES) beside them, or of one longer example.
        """
        records: list[_Row] = rows.select(_COLUMNS).to_pylist()
        positions_by_shard: defaultdict[int, list[int]] = defaultdict(list)
        for position, record in enumerate(records):
            positions_by_shard[_int(record, "shard_id")].append(position)
        examples: dict[int, Example] = {}
        for shard_id, positions in sorted(positions_by_shard.items()):
            shard = _shard(shard_table, shard_id)
            towers = self._read_towers(shard, [records[position] for position in positions])
            for position, (a, b) in zip(positions, towers, strict=True):
                examples[position] = self._example(records[position], a, b, shard, shard_table.caption_field)
        return [examples[position] for position in range(len(records))]

    def _read_towers(self, shard: ShardEntry, records: Sequence[_Row]) -> list[tuple[bytes, bytes]]:
        """Return the stored bytes of tower a and of tower b's member, per record."""
        ranges = [_range(record, tower) for record in records for tower in ("a", "b")]
        wanted = [position for position, found in enumerate(ranges) if found is not None]
        runs = coalesce([found for found in ranges if found is not None], gap_bytes=self._gap_bytes)
        contents = [b""] * len(ranges)
        for run, block in self._read_runs(shard, runs):
            self.bytes_read += run.range.length
            for position in run.positions:
                found = ranges[wanted[position]]
                assert found is not None
                start = found.offset - run.range.offset
                contents[wanted[position]] = block[start : start + found.length]
                self.bytes_used += found.length
        return list(zip(contents[::2], contents[1::2], strict=True))

    def _read_runs(self, shard: ShardEntry, runs: Sequence[Run]) -> Iterator[tuple[Run, bytes]]:
        for part in parts_of(runs):
            yield from zip(part, self._read(shard, [run.range for run in part]), strict=True)

    def _read(self, shard: ShardEntry, ranges: Sequence[ByteRange]) -> list[bytes]:
        delay_s = self._first_delay_s
        for attempt in range(1, self._num_attempts + 1):
            try:
                return self._source.read_ranges(shard.root, shard.key, ranges)
            except OSError as error:
                if attempt == self._num_attempts:
                    raise UnreadableExample(
                        f"published rows must stay readable; {error} (shard {shard.shard_id}, "
                        f"{shard.root}:{shard.key}, "
                        f"{attempt} tries). Restore the shard, then resume: no row was dropped."
                    ) from error
                self._sleep(delay_s)
                delay_s *= 4
        raise AssertionError("unreachable: the last try returns or raises")

    def _example(
        self, record: _Row, a: bytes, member_b: bytes, shard: ShardEntry, caption_field: str | None
    ) -> Example:
        uid = record["uid"]
        assert isinstance(uid, bytes)
        where = f"row {record['dataset_index']!r}, {shard.root}:{shard.key}"
        caption_index = None if record["caption_index"] is None else _int(record, "caption_index")
        b = _caption(member_b, caption_field, caption_index, where=where)
        if self._check_uids and uid_of_bytes(a, b) != uid:
            raise DigestMismatch(
                f"content must have the uid it was selected under, {uid.hex()}; "
                f"got {uid_of_bytes(a, b).hex()} ({where}). "
                "The shard changed after the dataset was registered: restore it, or register a new dataset."
            )
        return Example(uid, _int(record, "dataset_index"), _int(record, "slot"), _int(record, "variant"), a, b)


def _caption(member: bytes, caption_field: str | None, caption_index: int | None, *, where: str) -> bytes:
    """Return the caption in a member: all of it, or a field of its JSON where caption_field is "<suffix>:<field>"."""
    name = (caption_field or "").partition(":")[2]
    if not name:
        return member
    try:
        value = json.loads(member)[name]
        text = value[caption_index or 0] if isinstance(value, list) else value
        if not isinstance(text, str):
            raise TypeError(f"a {type(text).__name__} stands there")
        return text.encode("utf-8")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise UnreadableExample(f"a caption must be text in the JSON field {name!r}; {error!r} ({where}).") from error


def _range(record: _Row, tower: str) -> ByteRange | None:
    if record[f"{tower}_offset"] is None:
        return None
    return ByteRange(_int(record, f"{tower}_offset"), _int(record, f"{tower}_length"))


def _shard(shard_table: ShardTable, shard_id: int) -> ShardEntry:
    if not 0 <= shard_id < len(shard_table.shards):
        raise InvalidInput(
            f"shard_id must be in [0, {len(shard_table.shards)}); got {shard_id}. "
            "Use the shard table of the same dataset."
        )
    shard = shard_table.shards[shard_id]
    if shard.format != "webdataset":
        raise InvalidInput(
            f"this version reads webdataset shards; got {shard.format} (shard {shard_id}, {shard.root}:{shard.key})."
        )
    return shard


def _int(record: _Row, name: str) -> int:
    value = record[name]
    if not isinstance(value, int):
        raise InvalidInput(
            f"column {name} must be an integer here; got {value!r} (row {record.get('dataset_index')!r})."
        )
    return value
