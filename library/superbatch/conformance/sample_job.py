"""A small job in the real formats: tars with tiny pictures and captions, shard table, batch lists, digests.

Everything is a pure function of the seed, so that a report can be compared with an earlier one. Two rows make the
faults possible: the *late shard* is used by no batch before `late_seq`, and the *fragile row* by batch `fragile_seq`
alone, in its last slot but one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from superbatch.conformance.sample_shards import NUM_SHARDS, SampleRow, write_shards
from superbatch.formats.batch_list import BatchListReader, batch_rows, list_name, write_batch_list
from superbatch.formats.canonical import JsonValue
from superbatch.formats.digests import dataset_fingerprint, log_digest_start, next_log_digest
from superbatch.formats.errors import InvalidInput
from superbatch.formats.segments import ScoredWith, Segment
from superbatch.formats.shards import ShardEntry, ShardTable

JOB = "job_conformance"
HISTORY = "h1"
_BATCHES_OF_LIST = (1, 3, 2, 4)
_BATCHES_PER_GENERATION = 8


@dataclass(frozen=True, slots=True)
class SampleJob:
    """A job as published, and the truth that a loader is held against.

    folder: the root named ROOT. shard_table: of its tars. history_id: of the log.
    batches: uid per slot, per batch. segments, lists: the log, and the bytes of each list by its name.
    log_digests: log digest after n batches, n = 0 .. len(batches).
    late_seq: first batch with a row of the last shard. fragile_seq: the only batch with the row `fragile`.
    """

    folder: Path
    shard_table: ShardTable
    history_id: str
    batches: tuple[tuple[bytes, ...], ...]
    segments: tuple[Segment, ...]
    lists: Mapping[str, bytes]
    log_digests: tuple[bytes, ...]
    late_seq: int
    fragile_seq: int
    fragile: SampleRow

    @property
    def b(self) -> int:
        """Rows of a batch."""
        return len(self.batches[0])

    def state_at(self, next_seq: int) -> dict[str, JsonValue]:
        """Return the state of a trainer that trained the batches before `next_seq`."""
        digest = self.log_digests[next_seq].hex()
        return {"job": JOB, "history_id": self.history_id, "next_seq": next_seq, "log_digest": digest}

    def begun_anew(self, history_id: str) -> SampleJob:
        """Return the same batches as another history of the job: only the chain of log digests differs."""
        digests = _chained(self.lists.values(), history_id)
        segments = [replace(each, log_digest_end=digests[each.stop_seq].hex()) for each in self.segments]
        return replace(self, history_id=history_id, segments=tuple(segments), log_digests=digests)

    def late_shard(self) -> Path:
        """Return the path of the shard that no batch before late_seq uses."""
        return self.folder / self.shard_table.shards[-1].key

    def fragile_bytes(self) -> tuple[Path, int, int]:
        """Return the shard of the fragile row, and offset and length of its picture in it."""
        offset, length = (int(self.fragile.columns[name]) for name in ("a_offset", "a_length"))
        return self.folder / self.shard_table.shards[self.fragile.shard_id].key, offset, length


def make_job(folder: Path, *, num_batches: int = 24, b: int = 24, seed: int = 0) -> SampleJob:
    """Write the tars of a small job below `folder` and return the job.

    Rows come again in later batches, as in a real log; no row is twice in a batch.

    Args:
        folder: made if it is missing; must be writable.
        num_batches: at least 6, so that every fault has batches before and after it.
        b: rows of a batch, at least 2.
        seed: of contents and batches.
    Raises:
        InvalidInput: fewer batches or rows than that.
        OSError: the folder cannot be written.
    Cost: about b kilobytes and 0.2 ms per row of 5 * b + 60 rows.
    """
    if num_batches < 6 or b < 2:
        raise InvalidInput(f"a sample job has at least 6 batches of 2 rows; got {num_batches} of {b} (--steps).")
    shards, rows = write_shards(folder, rows_per_shard=b + 12, seed=seed)
    fingerprint = _fingerprint(shards)
    table = ShardTable(fingerprint.hex(), kind_a="image", kind_b="text", caption_field="txt", shards=shards)
    late_seq, fragile_seq = num_batches // 3, num_batches // 2
    fragile = next(row for row in rows if row.shard_id == 1)
    drawn = [
        _draw(rows, fragile, seq=seq, b=b, late=seq >= late_seq, is_fragile=seq == fragile_seq, seed=seed)
        for seq in range(num_batches)
    ]
    segments, lists, log_digests = _published(drawn, fingerprint=fingerprint)
    return SampleJob(
        folder=folder,
        shard_table=table,
        history_id=HISTORY,
        batches=tuple(tuple(row.uid for row in batch) for batch in drawn),
        segments=segments,
        lists=lists,
        log_digests=log_digests,
        late_seq=late_seq,
        fragile_seq=fragile_seq,
        fragile=fragile,
    )


def _fingerprint(shards: Sequence[ShardEntry]) -> bytes:
    return dataset_fingerprint(
        format="webdataset",
        towers={"a": "image", "b": "text"},
        caption_field="txt",
        shard_fingerprints=[bytes.fromhex(shard.fingerprint) for shard in shards],
    )


def _draw(
    rows: Sequence[SampleRow], fragile: SampleRow, *, seq: int, b: int, late: bool, is_fragile: bool, seed: int
) -> list[SampleRow]:
    """Return the rows of one batch in slot order: from `late_seq` on, slot 0 holds a row of the late shard."""
    early = [row for row in rows if row.shard_id < NUM_SHARDS - 1 and row.uid != fragile.uid]
    last = [row for row in rows if row.shard_id == NUM_SHARDS - 1]
    rng = random.Random(f"{seed}:{seq}")
    drawn = rng.sample(early, b)
    if late:
        num_late = max(1, b // NUM_SHARDS)
        for slot, row in zip([0, *rng.sample(range(1, b), num_late - 1)], rng.sample(last, num_late), strict=True):
            drawn[slot] = row
    if is_fragile:
        drawn[b - 2] = fragile
    return drawn


def _published(
    drawn: Sequence[Sequence[SampleRow]], *, fingerprint: bytes
) -> tuple[tuple[Segment, ...], dict[str, bytes], tuple[bytes, ...]]:
    spans: list[range] = []
    while (first_seq := spans[-1].stop if spans else 0) < len(drawn):
        num_batches = _BATCHES_OF_LIST[len(spans) % len(_BATCHES_OF_LIST)]
        spans.append(range(first_seq, min(first_seq + num_batches, len(drawn))))
    contents = [write_batch_list([_table(drawn[seq], seq) for seq in span], fingerprint=fingerprint) for span in spans]
    digests = _chained(contents, HISTORY)
    segments = [
        _segment(span, content, b=len(drawn[0]), log_digest_end=digests[span.stop].hex())
        for span, content in zip(spans, contents, strict=True)
    ]
    lists = {each.list_link.rpartition("/")[2]: content for each, content in zip(segments, contents, strict=True)}
    return tuple(segments), lists, digests


def _chained(lists: Iterable[bytes], history_id: str) -> tuple[bytes, ...]:
    """Return the log digest after n batches, n = 0 .. all."""
    digests = [log_digest_start(JOB, history_id)]
    for content in lists:
        for batch_digest in BatchListReader(content).batch_digests:
            digests.append(next_log_digest(digests[-1], batch_digest))
    return tuple(digests)


def _table(batch: Sequence[SampleRow], seq: int) -> pa.Table:
    names = list(batch[0].columns)
    columns: dict[str, Sequence[object]] = {name: [row.columns[name] for row in batch] for name in names}
    b = len(batch)
    fixed: dict[str, Sequence[object]] = {
        "batch_seq": [seq] * b,
        "slot": list(range(b)),
        "variant": [0] * b,
        "chunk": [1 + slot % 4 for slot in range(b)],
        "score": [0.5] * b,
    }
    return batch_rows({**columns, **fixed})


def _segment(seqs: range, content: bytes, *, b: int, log_digest_end: str) -> Segment:
    digest = sha256(content).hexdigest()
    generation = seqs.start // _BATCHES_PER_GENERATION
    trained_seq = generation * _BATCHES_PER_GENERATION
    return Segment(
        first_seq=seqs.start,
        num_batches=len(seqs),
        f=(0.8,) * len(seqs),
        B=(5 * b,) * len(seqs),
        list_link=f"lists/{list_name(seqs.start, seqs.stop, digest)}",
        num_bytes=len(content),
        sha256=digest,
        generation=generation,
        scored_with=ScoredWith(f"ckp_{generation}", trained_seq, "02" * 32) if generation else None,
        rule=None if generation else "easy_reference",
        log_digest_end=log_digest_end,
    )
