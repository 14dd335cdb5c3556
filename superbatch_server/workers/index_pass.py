"""The index and embed pass: what the cache has is delivered at once, the rest computed shard by shard and committed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from superbatch.formats.errors import SuperbatchError
from superbatch_server.schemas.attempts import CacheEntry, EventReport, PoolReport
from superbatch_server.schemas.datasets import ShardEntry
from superbatch_server.workers.cache_keys import embedding_cache_key, index_cache_key
from superbatch_server.workers.executors import Executor
from superbatch_server.workers.index import IndexSpec
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.progress import Progress
from superbatch_server.workers.ray_executor import RayStopped
from superbatch_server.workers.shard_task import EmbedSpec, ShardReceipt, ShardTask
from superbatch_server.workers.tries import MAX_TRIES
from superbatch_server.workers.walk import SuperBatchExceedsPool

log = logging.getLogger(__name__)


class CacheService(Protocol):
    """Law: the first commit of a cache key wins, and is what every commit and every lookup of that key returns."""

    def lookup(self, cache_keys: list[str]) -> list[CacheEntry]:
        """Return the committed entries among the keys."""
        ...

    def commit_cache(self, entry: CacheEntry) -> CacheEntry:
        """Commit an entry and return the one that won."""
        ...

    def report_pool(self, report: PoolReport) -> None:
        """Record the complete pool."""
        ...

    def event(self, report: EventReport) -> None:
        """Add a line to the job's history."""
        ...


class ShardFailed(SuperbatchError):
    """A shard could not be indexed or embedded; `error_code` says why."""

    code = "shard_failed"

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(error_code, message)
        self.error_code, self.message = error_code, message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class PassPlan:
    """Shards in the order of first use: those that the cache has in full, and tasks for the others."""

    ready: list[tuple[int, CacheEntry, CacheEntry | None]]
    tasks: list[ShardTask]
    known: dict[str, CacheEntry]
    """By cache key; of a task too, where the cache has one of its two objects."""
    fingerprint: str


def plan_pass(
    shards: Sequence[ShardEntry],
    service: CacheService,
    *,
    root: str,
    fingerprint: str,
    spec: IndexSpec,
    embed: EmbedSpec | None,
) -> PassPlan:
    """Return what must be computed.

    Args:
        shards: in the order of first use.
        fingerprint: of the data set.
    """
    keys = [_keys(shard, spec, embed) for shard in shards]
    found = service.lookup(sorted({key for pair in keys for key in pair if key}))
    known = {entry.cache_key: entry for entry in found}
    ready: list[tuple[int, CacheEntry, CacheEntry | None]] = []
    tasks: list[ShardTask] = []
    for shard, (index_key, embedding_key) in zip(shards, keys, strict=True):
        if index_key in known and (embedding_key is None or embedding_key in known):
            ready.append((shard.shard_id, known[index_key], known[embedding_key] if embedding_key else None))
        else:
            tasks.append(_task(shard, root, index_key, embedding_key, known))
    return PassPlan(ready, tasks, known, fingerprint)


class IndexPass:
    """Runs a plan; `run` is made for a thread of its own."""

    def __init__(
        self,
        plan: PassPlan,
        executor: Executor,
        service: CacheService,
        *,
        pool: Pool,
        progress: Progress,
        largest_B: int,
        on_complete: Callable[[], None] = lambda: None,
    ) -> None:
        """`largest_B`: of the batches still to be composed; checked against the complete pool.

        `on_complete` is called when the complete pool has been reported.
        """
        self._plan, self._executor, self._service = plan, executor, service
        self._pool, self._progress, self._largest_B = pool, progress, largest_B
        self._on_complete = on_complete
        self._num_shards = len(plan.ready) + len(plan.tasks)
        self._rows = 0
        self._rows_read = 0
        self._seconds: Counter[str] = Counter()

    def run(self) -> None:
        """Deliver every shard and report the pool; whatever goes wrong is handed to those who wait for the pool."""
        try:
            for shard_id, index, embedding in self._plan.ready:
                self._deliver(shard_id, index, embedding)
            self._compute(self._plan.tasks)
            self._service.report_pool(self._pool.report(self._plan.fingerprint))
            self._on_complete()
            self._check_largest()
            self._pool.mark_reported()
            log.info("pass complete: %d shards, %d rows", self._num_shards, self._rows)
        except BaseException as error:
            log.warning("the pass stopped: %s", error)
            self._pool.fail(error)

    def _compute(self, tasks: Sequence[ShardTask]) -> None:
        """Run tasks, each up to MAX_TRIES times."""
        pending = {task.shard_id: task for task in tasks}
        for number in range(1, MAX_TRIES + 1):
            failed: dict[int, ShardReceipt] = {}
            self._one_try(pending, failed, is_last=number == MAX_TRIES)
            for shard_id, receipt in failed.items():
                self._raise_or_note(pending[shard_id], receipt, number)
            if not pending:
                return

    def _one_try(self, pending: dict[int, ShardTask], failed: dict[int, ShardReceipt], *, is_last: bool) -> None:
        try:
            for receipt in self._executor.run_shards(list(pending.values())):
                if receipt.error is not None and not receipt.may_retry:
                    self._raise_or_note(pending[receipt.shard_id], receipt, MAX_TRIES)
                if receipt.error is not None:
                    failed[receipt.shard_id] = receipt
                else:
                    self._accept(pending.pop(receipt.shard_id), receipt)
        except RayStopped:
            if is_last or not pending:
                raise
            log.exception("a pass over shards stopped and is begun again")

    def _accept(self, task: ShardTask, receipt: ShardReceipt) -> None:
        known = self._plan.known
        for entry in (receipt.index, receipt.embedding):
            if entry is not None:
                known[entry.cache_key] = self._service.commit_cache(entry)
        index = known[task.wanted_index_key]
        embedding = known[task.wanted_embedding_key] if task.wanted_embedding_key else None
        self._count_seconds(receipt)
        self._deliver(task.shard_id, index, embedding)
        log.info("shard %d: %d rows in %.1f s", task.shard_id, index.rows, receipt.seconds)

    def _count_seconds(self, receipt: ShardReceipt) -> None:
        """Add up what the stages took; reading is what no other stage was."""
        known = {name: getattr(receipt, name) for name in ("decode_s", "encode_s", "write_s")}
        self._seconds.update({**known, "read_s": max(0.0, receipt.seconds - sum(known.values()))})
        read = receipt.index or receipt.embedding
        self._rows_read += read.rows if read else 0
        self._progress.note(
            rows_read=self._rows_read, **{f"pass_{name}": round(value, 3) for name, value in self._seconds.items()}
        )

    def _deliver(self, shard_id: int, index: CacheEntry, embedding: CacheEntry | None) -> None:
        self._pool.deliver(shard_id, index, embedding)
        self._rows += index.rows
        self._progress.note(
            shards_done=self._pool.num_delivered,
            shards_total=self._num_shards,
            rows_indexed=self._rows,
            rows_quarantined=self._pool.quarantined_so_far(),
        )

    def _check_largest(self) -> None:
        distinct = self._pool.num_distinct_contents()
        if self._largest_B > distinct:
            raise SuperBatchExceedsPool(self._largest_B, distinct)

    def _raise_or_note(self, task: ShardTask, receipt: ShardReceipt, number: int) -> None:
        assert receipt.error is not None
        where = f"shard {task.shard_id}, root {task.root}, key {task.key!r}"
        if number >= MAX_TRIES:
            tries = f"after {MAX_TRIES} tries" if receipt.may_retry else "not tried again"
            raise ShardFailed(receipt.error_code or "shard_failed", f"{receipt.error} [{where}; {tries}]")
        message = f"try {number} of {MAX_TRIES} failed and the shard is tried again: {receipt.error} [{where}]"
        log.warning(message)
        self._service.event(EventReport(kind="shard_retried", message=message[:4000], fields={"shard": task.shard_id}))


def _keys(shard: ShardEntry, spec: IndexSpec, embed: EmbedSpec | None) -> tuple[str, str | None]:
    assert shard.fingerprint is not None, "a READY data set knows its fingerprints"
    index_key = index_cache_key(shard.fingerprint, spec)
    if embed is None:
        return index_key, None
    return index_key, embedding_cache_key(
        shard.fingerprint, spec, encoder=embed.encoder_digest, numerics=embed.numerics_digest
    )


def _task(
    shard: ShardEntry, root: str, index_key: str, embedding_key: str | None, known: dict[str, CacheEntry]
) -> ShardTask:
    assert shard.fingerprint is not None
    return ShardTask(
        shard_id=shard.shard_id,
        root=root,
        key=shard.key,
        fingerprint=shard.fingerprint,
        sha256=shard.sha256,
        rows=shard.rows,
        wanted_index_key=index_key,
        wanted_embedding_key=embedding_key,
        has_index=index_key in known,
        has_embedding=embedding_key is None or embedding_key in known,
    )
