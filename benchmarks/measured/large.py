"""One joint selection from towers in files, and what it took; called in a process of its own.

Letters: B candidates, D width, C rows of one block, b chosen, N rounds.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec, map_embeddings, select, select_sharded
from superbatch.selection import write_tower as write_one

_STATUS = Path("/proc/self/status")
_SCALES = {"learner": 60.0, "reference": 100.0}
_ROWS_AT_ONCE = 8192


def write_towers(folder: Path, *, B: int, D: int, dtype: torch.dtype) -> int:
    """Write four towers of random pairs, block by block, and return their bytes."""
    for name, noise in (("learner", 1.0), ("reference", 0.5)):
        for tower, stream in (("image", 1), ("text", 2)):
            write_one(folder / f"{name}.{tower}.npy", _blocks(B, D, noise=noise, stream=stream), dtype=dtype)
    return 4 * B * D * dtype.itemsize


def _blocks(B: int, D: int, *, noise: float, stream: int) -> Iterator[torch.Tensor]:
    shared, own = (torch.Generator().manual_seed(seed) for seed in (0, stream))
    for start in range(0, B, _ROWS_AT_ONCE):
        C = min(_ROWS_AT_ONCE, B - start)
        rows_CD = torch.randn(C, D, generator=shared) + noise * torch.randn(C, D, generator=own)
        yield torch.nn.functional.normalize(rows_CD, dim=1)


@dataclass(frozen=True)
class Task:
    """What to select, and how; with a `store`, as process `rank` of `num_processes`, from that part of the rows."""

    folder: Path
    B: int
    b: int
    N: int
    num_threads: int
    is_in_memory: bool = False
    rank: int = 0
    num_processes: int = 1
    store: Path | None = None


def select_once(task: Task) -> dict[str, float | str]:
    """Return the figures of one selection.

    `select_s`, and `cpu_s` of processor time over all threads; how far private memory (`anon_mb`) and mapped pages
    (`file_mb`) of this process rose above what it had before, in megabytes of 1e6 bytes; `sent_mb`, what it gave to the
    collectives; `digest` of the chosen, in order.
    """
    torch.set_num_threads(task.num_threads)
    if task.store is not None:
        dist.init_process_group(
            "gloo", init_method=f"file://{task.store}", rank=task.rank, world_size=task.num_processes
        )
    rows = (task.B * task.rank // task.num_processes, task.B * (task.rank + 1) // task.num_processes)
    candidates = _candidates(task.folder, rows, is_in_memory=task.is_in_memory)
    few = Candidates(candidates.uid[:512], candidates.dataset_index[:512], *_take_512(candidates))
    select(few, SelectionSpec("joint", "learnability", 64, 4))  # loads what torch loads late
    spec = SelectionSpec("joint", "learnability", task.b, task.N)
    sent, rise = _count_what_is_sent(), _Rise()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    if task.store is None:
        chosen = select(candidates, spec).chosen_index
    else:
        chosen = select_sharded(candidates, spec).chosen_position
    figures = {
        "select_s": round(time.perf_counter() - start_s, 3),
        "cpu_s": round(time.process_time() - start_cpu_s, 3),
        **rise.stop(),
        "sent_mb": round(sum(sent) / 1e6, 2),
    }
    if task.store is not None:
        dist.destroy_process_group()
    return {**figures, "digest": hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()}


def _candidates(folder: Path, rows: tuple[int, int], *, is_in_memory: bool) -> Candidates:
    models = []
    for name, scale in _SCALES.items():
        paths = [folder / f"{name}.{tower}.npy" for tower in ("image", "text")]
        model = map_embeddings(paths[0], paths[1], logit_scale=scale, logit_bias=-10.0, rows=rows)
        models.append(model.map_towers(torch.clone) if is_in_memory else model)
    uid = np.random.default_rng(0).integers(0, 256, (rows[1], 16), dtype=np.uint8)
    return Candidates(uid[rows[0] :], np.arange(*rows, dtype=np.int64), *models)


def _take_512(candidates: Candidates) -> list[DualEmbeddings]:
    assert candidates.learner is not None
    assert candidates.reference is not None
    return [model.take(np.arange(512)) for model in (candidates.learner, candidates.reference)]


def _count_what_is_sent() -> list[int]:
    """Return a list that grows by the bytes of each tensor that this process gives to a collective."""
    sent: list[int] = []

    def counted(collective: Callable[..., Any], position: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            sent.append(arguments[position].nbytes)
            return collective(*arguments, **options)

        return call

    dist.all_reduce, dist.all_gather = counted(dist.all_reduce, 0), counted(dist.all_gather, 1)
    return sent


class _Rise:
    """Watches this process's memory from now on, every 5 ms."""

    def __init__(self) -> None:
        self._before_mb = _memory_mb()
        self._peak_mb = self._before_mb
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            self._peak_mb = [max(peak, now) for peak, now in zip(self._peak_mb, _memory_mb(), strict=True)]

    def stop(self) -> dict[str, float]:
        self._is_over.set()
        self._thread.join()
        rises = [round(peak - before, 1) for peak, before in zip(self._peak_mb, self._before_mb, strict=True)]
        return dict(zip(("anon_mb", "file_mb"), rises, strict=True))


def _memory_mb() -> list[float]:
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return [int(fields[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile")]
