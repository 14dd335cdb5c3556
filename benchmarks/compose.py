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

from dataclasses import asdict, dataclass

import torch
from measured.bench import Figures, bench_parser, machine, print_figures
from measured.made import made_candidates, towers
from measured.products import cut_products, num_flops, whole_products
from measured.service import measure_service
from measured.turns import time_in_turn

from superbatch.selection import SelectionSpec, select
from superbatch.selection.chunks import chunk_sizes


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
    mode = bench_parser("Speed of composing a batch.").parse_args().mode
    figures: Figures = {"mode": mode, **machine("torch")}
    figures |= measure_selection(SIZES[mode]) | measure_service_part(mode)
    print_figures(figures)


def measure_selection(size: Size) -> Figures:
    """Return the times of a joint selection and of its products alone."""
    candidates = made_candidates(size.B, size.D)
    spec = SelectionSpec("joint", "learnability", size.b, size.N)
    factors, sizes = towers(candidates), chunk_sizes(size.b, size.N)[:-1]
    actions = {
        "whole": whole_products(factors, sizes),
        "cut": cut_products(factors, sizes),
        "select": lambda: select(candidates, spec),
    }
    median_s = {name: taken.wall_s for name, taken in time_in_turn(actions, num_runs=size.num_runs).items()}
    fastest_s = min(median_s["whole"], median_s["cut"])
    return {
        **asdict(size),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "select_s": round(median_s["select"], 4),
        "products_whole_s": round(median_s["whole"], 4),
        "products_in_blocks_s": round(median_s["cut"], 4),
        "products_gflops": round(1e-9 * num_flops(factors, sizes) / fastest_s, 1),
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


if __name__ == "__main__":
    main()
