"""The pool: what the index pass has delivered so far, and waiting for what it has not.

Letters: n rows of one shard, B candidates, D width.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Condition
from typing import TypeVar

import numpy as np
import pyarrow as pa

from superbatch.formats.digests import eligible_digest
from superbatch.formats.errors import DigestMismatch
from superbatch_server.schemas.attempts import CacheEntry, PoolReport
from superbatch_server.schemas.datasets import ShardEntry
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.workers.byte_rows import byte_rows
from superbatch_server.workers.embed import ShardEmbeddings, read_embeddings
from superbatch_server.workers.index import OK, check_rows, read_index
from superbatch_server.workers.walk import CONTENT_BYTES, WalkRows

_OPEN_SHARDS = 256
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class _Delivered:
    """What is kept of a shard for good: which objects it has, and what the walk needs."""

    index: CacheEntry
    embedding: CacheEntry | None
    rows: WalkRows
    verdicts: dict[str, int]


class Pool:
    """Delivered shards, by shard_id. Safe for one thread that delivers and several that read."""

    def __init__(self, shards: Sequence[ShardEntry], store: ArtifactStore) -> None:
        self._shards = {shard.shard_id: shard for shard in shards}
        self._store = store
        self._delivered: dict[int, _Delivered] = {}
        self._indexes: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._embeddings: OrderedDict[int, ShardEmbeddings] = OrderedDict()
        self._failure: BaseException | None = None
        self._is_reported = False
        self._changed = Condition()

    @property
    def is_complete(self) -> bool:
        """True when every shard has been delivered."""
        return len(self._delivered) == len(self._shards)

    @property
    def num_delivered(self) -> int:
        """Shards delivered so far."""
        return len(self._delivered)

    def deliver(self, shard_id: int, index: CacheEntry, embedding: CacheEntry | None) -> None:
        """Take a shard's committed objects and wake who waits for it.

        Raises: ShardChanged when the index has another number of rows than the data set; CorruptFile for a bad object.
        """
        rows, found = self._open_index(index), self._open_embeddings(embedding) if embedding else None
        where = f"shard {shard_id}, key {self._shards[shard_id].key!r}"
        check_rows(rows.num_rows, self._shards[shard_id].rows, where=where)
        verdicts = rows.column("verdict").to_pylist()
        if found is not None:
            check_rows(len(found.verdict), rows.num_rows, where=where)
            verdicts = [own if own != OK else theirs for own, theirs in zip(verdicts, found.verdict, strict=True)]
        walk_rows = WalkRows(
            eligible=np.array([verdict == OK for verdict in verdicts], dtype=bool),
            content=byte_rows(rows.column("a_sha256")).tobytes(),
        )
        with self._changed:
            self._delivered[shard_id] = _Delivered(index, embedding, walk_rows, dict(Counter(verdicts)))
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Wake everyone who waits, with this error."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def mark_reported(self) -> None:
        """Note that the pass is over and its report recorded."""
        with self._changed:
            self._is_reported = True
            self._changed.notify_all()

    def wait_reported(self) -> None:
        """Wait for the end of the pass."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_reported or self._failure)
            self._raise_failure()

    def check(self) -> None:
        """Raise what made the pass fail, if it did."""
        with self._changed:
            self._raise_failure()

    def rows_of(self, shard_id: int) -> WalkRows:
        """Return what the walk needs of a shard, once the pass has delivered it."""
        return self._wait_for(shard_id).rows

    def objects_of(self, shard_id: int) -> tuple[CacheEntry, CacheEntry | None]:
        """Return the objects of a shard, index and embeddings, once the pass has delivered it."""
        shard = self._wait_for(shard_id)
        return shard.index, shard.embedding

    def index_of(self, shard_id: int) -> pa.RecordBatch:
        """Return the index rows of a shard, once the pass has delivered it."""
        entry = self._wait_for(shard_id).index
        return _kept(self._indexes, shard_id, lambda: self._open_index(entry))

    def embeddings_of(self, shard_id: int) -> ShardEmbeddings:
        """Return the reference embeddings of a shard, once the pass has delivered it."""
        entry = self._wait_for(shard_id).embedding
        assert entry is not None, "a job without a reference embeds no shard"
        return _kept(self._embeddings, shard_id, lambda: self._open_embeddings(entry))

    def fixed_rows(self, num_rows: int, *, order: Sequence[int]) -> list[int]:
        """Return the dataset_index of the first eligible rows of the shards in `order`.

        Waits for as many shards as that takes: which rows these are does not depend on what happens to be delivered.
        """
        found: list[int] = []
        for shard_id in order:
            if len(found) >= num_rows:
                break
            found += (np.flatnonzero(self.rows_of(shard_id).eligible) + self._start(shard_id)).tolist()
        return found[:num_rows]

    def num_distinct_contents(self) -> int:
        """Return how many different contents of tower a the eligible rows have; needs the complete pool."""
        contents = set()
        for shard in self._delivered.values():
            found = shard.rows.content
            contents |= {
                found[row * CONTENT_BYTES : (row + 1) * CONTENT_BYTES] for row in np.flatnonzero(shard.rows.eligible)
            }
        return len(contents)

    def report(self, dataset_fingerprint: str) -> PoolReport:
        """Return digest and counts of the complete pool."""
        per_source: dict[str, Counter[str]] = {}
        quarantined: Counter[str] = Counter()
        for shard_id, shard in self._delivered.items():
            counts = per_source.setdefault(
                self._shards[shard_id].source, Counter(rows=0, eligible=0, quarantined=0, filtered=0)
            )
            rows, eligible = len(shard.rows.eligible), int(shard.rows.eligible.sum())
            counts.update(rows=rows, eligible=eligible, quarantined=rows - eligible)
            quarantined.update({reason: count for reason, count in shard.verdicts.items() if reason != OK})
        return PoolReport(
            eligible_digest=eligible_digest(bytes.fromhex(dataset_fingerprint), self._eligible()).hex(),
            rows=sum(counts["rows"] for counts in per_source.values()),
            eligible=sum(counts["eligible"] for counts in per_source.values()),
            per_source={source: dict(counts) for source, counts in sorted(per_source.items())},
            quarantined=dict(sorted(quarantined.items())),
        )

    def quarantined_so_far(self) -> int:
        """Return the quarantined rows of the shards delivered so far."""
        return sum(
            len(shard.rows.eligible) - int(shard.rows.eligible.sum()) for shard in list(self._delivered.values())
        )

    def _eligible(self) -> Iterator[bool]:
        for shard_id in sorted(self._shards, key=self._start):
            yield from self._delivered[shard_id].rows.eligible.tolist()

    def _start(self, shard_id: int) -> int:
        start = self._shards[shard_id].start_index
        assert start is not None, "a READY data set knows its rows"
        return start

    def _wait_for(self, shard_id: int) -> _Delivered:
        with self._changed:
            self._changed.wait_for(lambda: shard_id in self._delivered or self._failure)
            self._raise_failure()
            return self._delivered[shard_id]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _open_index(self, entry: CacheEntry) -> pa.RecordBatch:
        return read_index(self._checked(entry))

    def _open_embeddings(self, entry: CacheEntry) -> ShardEmbeddings:
        return read_embeddings(self._checked(entry))

    def _checked(self, entry: CacheEntry) -> bytes:
        data = self._store.get(entry.object_key)
        found = sha256(data).hexdigest()
        if found != entry.sha256:
            raise DigestMismatch(
                f"a cached object must have its recorded sha256; got {found} instead of {entry.sha256} "
                f"(store, key {entry.object_key!r}). Restore it from a backup, or delete the cache entry."
            )
        return data


def _kept(shelf: OrderedDict[int, Value], shard_id: int, load: Callable[[], Value]) -> Value:
    """Return what is on the shelf, loaded when it is not; the shelf keeps the _OPEN_SHARDS used last."""
    found = shelf.pop(shard_id, None)
    shelf[shard_id] = found = load() if found is None else found
    while len(shelf) > _OPEN_SHARDS:
        shelf.popitem(last=False)
    return found
