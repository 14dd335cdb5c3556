"""What a super-batch larger than memory costs: towers in files, and candidates split over processes.

    python benchmarks/large_super_batch.py [--quick | --tiny]

The same random pairs, in float16 files, are selected from four times, each time in fresh processes: in memory, mapped,
mapped with one thread, and mapped by two processes of one thread each. All four must choose the same (`same_choice`).

- `mapped_over_in_memory`: time mapped over time in memory, same threads; `mapped_cpu_over_in_memory` in processor time,
  which other load on the machine hardly disturbs.
- `mapped_anon_mb`, `mapped_file_mb`: rise of private memory and of mapped pages while selecting; `towers_mb` is what
  the towers would take.
- `sharded_speedup`: time of one process over time of two, one thread each; `sharded_cpu_over_one_thread`: processor
  time of the two together over that of the one. `sent_mb`: what one of them gave to the collectives;
  `sent_over_chosen`: that over the bytes of the chosen's four towers.

The last line is `BENCH {json}`. Letters: B candidates, D width, b chosen, N rounds.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from measured.bench import bench_parser, machine, print_figures
from measured.large import Task, select_once, write_towers

_NUM_THREADS = 2


@dataclass(frozen=True)
class Size:
    """One configuration of the benchmark."""

    B: int
    D: int
    b: int
    N: int


SIZES = {
    "full": Size(B=262_144, D=256, b=13_107, N=16),
    "quick": Size(B=65_536, D=256, b=1_638, N=16),
    "tiny": Size(B=4_096, D=64, b=205, N=4),
}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    description = "Cost of a super-batch larger than memory."
    mode = bench_parser(description, quick="a quarter of the candidates, under 60 s").parse_args().mode
    figures = {"mode": mode, **machine("torch"), **measure(SIZES[mode])}
    print_figures(figures)


def measure(size: Size) -> dict[str, object]:
    """Return the figures of one configuration; its files lie in a temporary folder, removed after."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = write_towers(folder, B=size.B, D=size.D, dtype=torch.float16)
        task = Task(folder, size.B, size.b, size.N, num_threads=_NUM_THREADS)
        (in_memory,) = run([replace(task, is_in_memory=True)])
        (mapped,) = run([task])
        (alone,) = run([replace(task, num_threads=1)])
        part = replace(task, num_threads=1, num_processes=2, store=folder / "store")
        sharded = run([replace(part, rank=rank) for rank in range(2)])
    ran = [in_memory, mapped, alone, *sharded]
    sharded_s = max(float(one["select_s"]) for one in sharded)
    sent_mb = float(sharded[0]["sent_mb"])
    return {
        **asdict(size),
        "dtype": "float16",
        "threads": _NUM_THREADS,
        "towers_mb": round(num_bytes / 1e6, 1),
        "in_memory_s": in_memory["select_s"],
        "in_memory_anon_mb": in_memory["anon_mb"],
        "mapped_s": mapped["select_s"],
        "mapped_anon_mb": mapped["anon_mb"],
        "mapped_file_mb": mapped["file_mb"],
        "mapped_over_in_memory": round(float(mapped["select_s"]) / float(in_memory["select_s"]), 3),
        "in_memory_cpu_s": in_memory["cpu_s"],
        "mapped_cpu_s": mapped["cpu_s"],
        "one_thread_cpu_s": alone["cpu_s"],
        "sharded_cpu_s": round(sum(float(one["cpu_s"]) for one in sharded), 3),
        "mapped_cpu_over_in_memory": round(float(mapped["cpu_s"]) / float(in_memory["cpu_s"]), 3),
        "one_thread_s": alone["select_s"],
        "sharded_s": sharded_s,
        "sharded_speedup": round(float(alone["select_s"]) / sharded_s, 3),
        "sharded_cpu_over_one_thread": round(sum(float(one["cpu_s"]) for one in sharded) / float(alone["cpu_s"]), 3),
        "sent_mb": sent_mb,
        "sent_over_chosen": round(sent_mb * 1e6 / (4 * size.b * size.D * torch.float16.itemsize), 3),
        "same_choice": float(len({one["digest"] for one in ran}) == 1),
    }


def run(tasks: Sequence[Task]) -> list[dict[str, float | str]]:
    """Return the figures of tasks done at the same time, each in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["measured.large"])
    with ProcessPoolExecutor(len(tasks), mp_context=context) as pool:
        return list(pool.map(select_once, tasks))


if __name__ == "__main__":
    main()
