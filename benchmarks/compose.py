"""How fast a batch is composed: joint selection beside the bare matrix products it cannot do without.

    python benchmarks/compose.py [--quick | --tiny]

Selection of b from B with cached embeddings of both models, against the same 4(N-1) products [B, D] x [D, n], same
type, threads and process, in turn; medians. The products are timed twice: whole, as torch runs them, and cut and spread
over threads as the selection does it. `gemm_fraction` is against the faster of the two, `gemm_fraction_whole` against
whole products. Nothing is made ahead: the checks and the noise are inside the selection's time.
`serve_ready_s` is the time from starting `superbatch serve` to its first healthy answer; `commit_overhead_ms` what
publishing adds to a composed batch of this size (see measured/commit_driver.py). The last line is `BENCH {json}`.

Letters: B candidates, D width, n drawn in one round, b in all, N rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from measured.service import measure_service

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec, select
from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.pairs.block_threads import BlockThreads, Workspace

Figures = dict[str, float | int | str | bool | None]


@dataclass(frozen=True)
class Size:
    """One configuration of the benchmark."""

    B: int
    b: int
    D: int
    N: int
    num_runs: int


SIZES = {
    "full": Size(B=8192, b=1638, D=512, N=16, num_runs=15),
    "quick": Size(B=8192, b=1638, D=512, N=16, num_runs=5),
    "tiny": Size(B=512, b=102, D=64, N=4, num_runs=2),
}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    parser = argparse.ArgumentParser(description="Speed of composing a batch.")
    shorter = parser.add_mutually_exclusive_group()
    shorter.add_argument("--quick", action="store_true", help="fewer runs, under 60 s")
    shorter.add_argument("--tiny", action="store_true", help="a toy size, under 5 s: proves that it runs")
    args = parser.parse_args()
    mode = "tiny" if args.tiny else "quick" if args.quick else "full"
    figures: Figures = {"mode": mode, **measure_selection(SIZES[mode]), **measure_service_part(mode)}
    for name, figure in figures.items():
        print(f"{name:24} {figure}")
    print("BENCH " + json.dumps(figures))


def measure_selection(size: Size) -> Figures:
    """Return the times of a joint selection and of its products alone."""
    candidates = made_candidates(size)
    spec = SelectionSpec("joint", "learnability", size.b, size.N)
    median_s = time_in_turn(
        {
            "whole": lambda: multiply_whole(candidates, size),
            "blocks": lambda: multiply_blocks(candidates, size),
            "select": lambda: select(candidates, spec),
        },
        num_runs=size.num_runs,
    )
    num_multiply_adds = 4 * size.B * size.D * sum(chunk_sizes(size.b, size.N)[:-1])
    fastest_s = min(median_s["whole"], median_s["blocks"])
    return {
        **asdict(size),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "select_s": round(median_s["select"], 4),
        "products_whole_s": round(median_s["whole"], 4),
        "products_in_blocks_s": round(median_s["blocks"], 4),
        "products_gflops": round(2e-9 * num_multiply_adds / fastest_s, 1),
        "gemm_fraction": round(fastest_s / median_s["select"], 3),
        "gemm_fraction_whole": round(median_s["whole"] / median_s["select"], 3),
    }


def measure_service_part(mode: str) -> Figures:
    """Return the times of the service: start to ready, and what a commit adds to a batch."""
    if mode == "tiny":
        reason = "a tiny run starts no service; use --quick"
        return {name: value for key in ("serve_ready_s", "commit_overhead_ms") for name, value in _missing(key, reason)}
    return {**measure_service(num_starts=3 if mode == "quick" else 7)}


def _missing(key: str, reason: str) -> list[tuple[str, str | None]]:
    return [(key, None), (f"{key}_reason", reason)]


def made_candidates(size: Size) -> Candidates:
    """Return random pairs at the logit scale of a trained learner and reference."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)

    def model(noise: float, logit_scale: float) -> DualEmbeddings:
        shared_BD = torch.randn(size.B, size.D, generator=generator)
        towers = [shared_BD + noise * torch.randn(size.B, size.D, generator=generator) for _ in range(2)]
        unit = [torch.nn.functional.normalize(tower_BD, dim=1) for tower_BD in towers]
        return DualEmbeddings(image=unit[0], text=unit[1], logit_scale=logit_scale, logit_bias=-10.0)

    return Candidates(
        uid=rng.integers(0, 256, (size.B, 16), dtype=np.uint8),
        dataset_index=np.arange(size.B, dtype=np.int64),
        learner=model(noise=1.0, logit_scale=60.0),
        reference=model(noise=0.5, logit_scale=100.0),
    )


def multiply_whole(candidates: Candidates, size: Size) -> None:
    """Do the 4(N-1) products of a joint selection and nothing else, each as one call."""
    for n in chunk_sizes(size.b, size.N)[:-1]:
        product_Bn = torch.empty(size.B, n)
        for tower_BD in towers(candidates):
            torch.mm(tower_BD, tower_BD[:n].T, out=product_Bn)


def multiply_blocks(candidates: Candidates, size: Size) -> None:
    """Do the same products in the selection's blocks, each block on one core."""
    with BlockThreads(size.B, torch.device("cpu")) as threads:
        for n in chunk_sizes(size.b, size.N)[:-1]:

            def multiply(start: int, stop: int, workspace: Workspace, *, n: int = n) -> None:
                product_nC, _ = workspace.tile(n, stop - start, dtype=torch.float32)
                for tower_BD in towers(candidates):
                    torch.mm(tower_BD[:n], tower_BD[start:stop].T, out=product_nC)

            threads.for_each_block(multiply)


def towers(candidates: Candidates) -> list[torch.Tensor]:
    """Return the four embeddings of a candidate set."""
    assert candidates.learner is not None
    assert candidates.reference is not None
    return [tower for model in (candidates.learner, candidates.reference) for tower in (model.image, model.text)]


def time_in_turn(actions: dict[str, Callable[[], object]], *, num_runs: int) -> dict[str, float]:
    """Return the median seconds of each action; one warm-up, then the actions take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for run in range(num_runs + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if run > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
