"""Composed batches into batch lists: written, committed, and made known to readers of the bucket."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from time import monotonic
from typing import Protocol

from superbatch.formats.batch_list import digest_of_rows, list_name, write_batch_list
from superbatch.formats.score_shard import write_score_shard
from superbatch_server.schemas.attempts import (
    AttemptBundle,
    ScheduleRow,
    SegmentCommit,
    SegmentCommitted,
    SegmentFile,
    SegmentStats,
    SourceCounts,
    WalkPosition,
    sum_counts,
)
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.workers.artifacts import put_hashed
from superbatch_server.workers.compose import Composed


class SegmentService(Protocol):
    """Law: a commit is published once and only at the job's next_seq; the same commit again gets the same answer."""

    def commit_segment(self, commit: SegmentCommit) -> SegmentCommitted:
        """Publish a segment."""
        ...


@dataclass(frozen=True, eq=False)
class Timed:
    """A composed batch with the row that decided it, where the walk goes on, and what it took."""

    row: ScheduleRow
    composed: Composed
    next_walk: WalkPosition
    score_s: float
    select_s: float


class ListWriter:
    """Collects batches until a list is full: lists are [kL, (k+1)L), only the last one short."""

    def __init__(self, bundle: AttemptBundle, service: SegmentService, store: ArtifactStore) -> None:
        self._service, self._store = service, store
        self._prefix = log_prefix(bundle)
        self._fingerprint = bytes.fromhex(bundle.dataset_fingerprint)
        self._batches_per_list = bundle.spec.lists.batches_per_list
        self._num_batches = bundle.spec.num_batches
        self._waiting: list[tuple[Timed, str]] = []

    def add(self, batch: Timed) -> SegmentCommitted | None:
        """Keep a batch; return the commit that it completed, if it did."""
        data = write_score_shard(batch.composed.scores, fingerprint=self._fingerprint)
        name = f"{self._prefix}/scores/{batch.row.seq:012d}-{batch.row.row_attempt}"
        self._waiting.append((batch, put_hashed(self._store, name, data)))
        stop_seq = batch.row.seq + 1
        if stop_seq % self._batches_per_list and stop_seq != self._num_batches:
            return None
        return self._commit()

    def _commit(self) -> SegmentCommitted:
        started = monotonic()
        batches, score_keys = [batch for batch, _ in self._waiting], [key for _, key in self._waiting]
        rows = [batch.row for batch in batches]
        # A segment names one checkpoint: of several the oldest, none being older than any, so that staleness is never
        # understated. That need not be the first: a rejected checkpoint gives way to the one before it.
        oldest = min(rows, key=lambda row: row.checkpoint.trained_seq if row.checkpoint else -1)
        data = write_batch_list([batch.composed.batch for batch in batches], fingerprint=self._fingerprint)
        digest = sha256(data).hexdigest()
        name = list_name(rows[0].seq, rows[-1].seq + 1, digest)
        list_key = f"{self._prefix}/lists/{name}"
        self._store.put_new(list_key, data)
        commit = SegmentCommit(
            first_seq=rows[0].seq,
            num_batches=len(rows),
            f=[row.f for row in rows],
            B=[row.B for row in rows],
            row_attempts=[row.row_attempt for row in rows],
            list_key=list_key,
            list_name=name,
            bytes=len(data),
            sha256=digest,
            score_keys=score_keys,
            batch_digests=[digest_of_rows(b.composed.batch, fingerprint=self._fingerprint).hex() for b in batches],
            generation=oldest.checkpoint.generation if oldest.checkpoint else 0,
            rule=oldest.rule,
            checkpoint=oldest.checkpoint,
            next_walk=batches[-1].next_walk,
            stats=_stats(batches, commit_s=monotonic() - started),
        )
        committed = self._service.commit_segment(commit)
        put_files(self._store, committed.log_files)
        self._waiting = []
        return committed


def log_prefix(bundle: AttemptBundle) -> str:
    """Return the store prefix of a job's log and lists; the service refuses a commit of a list elsewhere."""
    return f"jobs/{bundle.job_id}/{bundle.history_id}"


def put_files(store: ArtifactStore, files: list[SegmentFile]) -> None:
    """Create the bucket's log files that are missing; the same segment always has the same bytes."""
    for file in files:
        store.put_new(file.key, file.text.encode())


def _stats(batches: list[Timed], *, commit_s: float) -> SegmentStats:
    counts: dict[str, SourceCounts] = {}
    for batch in batches:
        for source, count in batch.composed.counts.items():
            counts[source] = sum_counts([counts[source], count]) if source in counts else count
    chosen = [b.composed.mean_chosen for b in batches if b.composed.mean_chosen is not None]
    candidates = [b.composed.mean_candidates for b in batches if b.composed.mean_candidates is not None]
    is_scored = len(chosen) == len(batches)
    return SegmentStats(
        per_source=dict(sorted(counts.items())),
        learnability_batch=chosen if is_scored else [],
        learnability_super_batch=candidates if is_scored else [],
        score_s=sum(batch.score_s for batch in batches),
        select_s=sum(batch.select_s for batch in batches),
        commit_s=commit_s,
    )
