"""The executor on Ray, a local one or a cluster: a Ray Data pass over shards, and a fixed pool of scoring actors.

Ray is a stateless executor here: what was done is known by the catalog alone. Pictures and embeddings of shards never
enter its object store; a worker writes them itself and answers with a receipt.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from superbatch.formats.errors import SuperbatchError
from superbatch_server.workers.index import IndexSpec
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings, RowScorer, ScoringFailed, join, parts
from superbatch_server.workers.shard_task import EmbedSpec, ShardReceipt, ShardTask, ShardWorker
from superbatch_server.workers.tries import Tries
from superbatch_server.workers.worker_settings import WorkerSettings

NO_PROGRESS_S = 180.0
SLOWEST_ROW_S = 1.0
"""No progress is no finished task for NO_PROGRESS_S plus this for each row of the largest one."""

_TASK_RETRIES = 3  # of a scoring call whose process died
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

log = logging.getLogger(__name__)


class RayStopped(SuperbatchError):
    """Ray made no progress or lost its workers again and again."""

    code = "ray_stopped"


class RayExecutor:
    """Works on the Ray that this process has started or joined, and leaves it when closed."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        embed: EmbedSpec | None,
        spec: IndexSpec,
        num_workers: int,
        shards_per_task: int,
        scores: bool,
        temp_dir: Path | None,
    ) -> None:
        """`temp_dir`: folder of a Ray of our own, removed with it."""
        self._settings, self._embed, self._spec = settings, embed, spec
        self._num_workers, self.shards_per_task = num_workers, shards_per_task
        self._temp_dir = temp_dir
        self._score_lock = Lock()
        # Not waited for: they load while the pass begins. Begun at their first use they cost a job 9 s more on 2 cores.
        self._scorers: list[Any] = self._start_scorers() if scores else []

    def run_shards(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReceipt]:
        """Yield receipts as Ray Data brings them."""
        import ray.data

        if not tasks:
            return
        items = [{"task": task.model_dump_json()} for task in tasks]
        ray.data.DataContext.get_current().execution_no_progress_timeout_s = _patience_s(
            max(task.rows or 0 for task in tasks) * self.shards_per_task
        )
        num_blocks = -(-len(items) // self.shards_per_task)  # Ray Data hands whole blocks to the actors
        receipts = ray.data.from_items(items, override_num_blocks=num_blocks).map_batches(
            _ShardActor,
            fn_constructor_args=(self._settings, self._embed, self._spec),
            batch_size=self.shards_per_task,
            compute=ray.data.ActorPoolStrategy(size=self._num_workers),
            num_cpus=1,
        )
        try:
            for row in receipts.iter_rows():
                yield ShardReceipt.model_validate_json(row["receipt"])
        except Exception as error:  # Ray Data's errors have no common base class
            raise RayStopped(
                f"a pass over shards must go on; got {_first_line(error)} (Ray Data). "
                "Read the driver's log; lower num_workers or micro_batch when memory ran out."
            ) from error

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        """Embed the parts on whichever actor is free."""
        from ray.util import ActorPool

        assert self._scorers, "no CPUs were set aside for scoring"
        cut = list(parts(rows, micro_batch=micro_batch, num_workers=self._num_workers))
        with self._score_lock:
            pool = ActorPool(self._scorers)
            for part in cut:
                pool.submit(lambda actor, part: actor.embed.remote(files, part, micro_batch), part)
            patience_s = _patience_s(len(cut[0]))
            return join([self._next(pool, patience_s) for _ in cut])

    def close(self) -> None:
        """Stop Ray, or leave the cluster, and remove the files of our own Ray."""
        import ray

        ray.shutdown()
        if self._temp_dir is not None:
            shutil.rmtree(self._temp_dir, ignore_errors=True)

    def _start_scorers(self) -> list[Any]:
        import ray

        actor = ray.remote(RowScorer).options(num_cpus=1, max_restarts=-1, max_task_retries=_TASK_RETRIES)
        return [actor.remote(self._settings) for _ in range(self._num_workers)]

    def _next(self, pool: Any, patience_s: float) -> RowEmbeddings | ScoringFailed:
        import ray

        try:
            found: RowEmbeddings | ScoringFailed = pool.get_next(timeout=patience_s)
            return found
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise RayStopped(
                f"scoring must make progress within {patience_s:.0f} s; got {_first_line(error)} (scoring actors). "
                "Read the driver's log; lower micro_batch or num_workers when memory ran out."
            ) from error


class _ShardActor:
    """What Ray Data calls: a batch of tasks in, as many receipts out."""

    def __init__(self, settings: WorkerSettings, embed: EmbedSpec | None, spec: IndexSpec) -> None:
        self._worker = ShardWorker(settings, embed=embed, spec=spec)
        self._tries = Tries(Path(settings.scratch) / "tries")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        tasks = [ShardTask.model_validate_json(str(text)) for text in batch["task"]]
        return {"receipt": [self._run(task).model_dump_json() for task in tasks]}

    def _run(self, task: ShardTask) -> ShardReceipt:
        with self._tries.counted(task) as refused:
            return refused or self._worker.run(task)


def num_logical_cpus(num_workers: int, *, scores: bool) -> int:
    """Return the logical CPUs that all pools need together: with fewer, one waits without a word."""
    return num_workers * (2 if scores else 1) + 1


def start_ray(*, num_cpus: int, temp_dir: Path, token_file: Path, threads: int) -> None:
    """Start a Ray of our own, which listens on 127.0.0.1 only and answers who has the token that this writes.

    Call it in the main thread, once in a process and before Ray is imported: Ray's processes end with the thread that
    started them, and Ray reads the variables once.
    """
    _write_token(token_file)
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the file
    # Inherited by Ray's processes. A runtime_env would do the same, but starts each worker anew instead of in advance.
    os.environ.update(
        {
            **thread_variables(threads),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            # A node then has the address 127.0.0.1. Asked for by `_node_ip_address`, Ray takes the machine's instead.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    )
    import ray
    import ray.data

    ray.init(
        num_cpus=num_cpus,
        num_gpus=0,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=True,
        _temp_dir=str(temp_dir),
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def thread_variables(threads: int) -> dict[str, str]:
    """Return the variables that keep numerical libraries of a worker to its threads."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def _write_token(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def _patience_s(rows: int) -> float:
    return NO_PROGRESS_S + SLOWEST_ROW_S * rows


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
