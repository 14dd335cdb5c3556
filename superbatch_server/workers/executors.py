"""Where shard tasks and scoring run: in this process, or on Ray (ray_executor.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import local
from typing import Protocol

from superbatch_server.workers.index import IndexSpec
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings, RowScorer, join, parts
from superbatch_server.workers.shard_task import EmbedSpec, ShardReceipt, ShardTask, ShardWorker
from superbatch_server.workers.worker_settings import WorkerSettings


class Executor(Protocol):
    """Runs the two kinds of work of an attempt.

    Law: receipts come once per task, in any order; embeddings come in the order of the rows. Neither depends on how
    many workers there are or which of them did what. `run_shards` and `embed_rows` may run at the same time.
    """

    def run_shards(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReceipt]:
        """Yield the receipts of shard tasks as they are done."""
        ...

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        """Return the embeddings of rows, in micro-batches cut by position; raises ScoringFailed."""
        ...

    def close(self) -> None:
        """Stop all workers."""
        ...


class InProcessExecutor:
    """Threads of this process: for tests, and for jobs where nothing must be embedded or scored."""

    def __init__(
        self, settings: WorkerSettings, *, embed: EmbedSpec | None, spec: IndexSpec, num_workers: int = 1
    ) -> None:
        self._settings, self._embed, self._spec = settings, embed, spec
        self._num_workers = num_workers
        self._own = local()
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="worker")

    def run_shards(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReceipt]:
        """Yield receipts as threads finish."""
        for done in as_completed([self._threads.submit(self._run_shard, task) for task in tasks]):
            yield done.result()

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        """Embed the parts in the pool's threads."""
        cut = parts(rows, micro_batch=micro_batch, num_workers=self._num_workers)
        return join(list(self._threads.map(lambda part: self._embed_part(files, part, micro_batch), cut)))

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _run_shard(self, task: ShardTask) -> ShardReceipt:
        if not hasattr(self._own, "worker"):
            self._own.worker = ShardWorker(self._settings, embed=self._embed, spec=self._spec)
        worker: ShardWorker = self._own.worker
        return worker.run(task)

    def _embed_part(self, files: EncoderFiles, rows: Sequence[RowRef], micro_batch: int) -> RowEmbeddings:
        if not hasattr(self._own, "scorer"):
            self._own.scorer = RowScorer(self._settings)
        scorer: RowScorer = self._own.scorer
        return join([scorer.embed(files, rows, micro_batch)])
