"""How fast a CPU selects jointly, and in what memory.

    python benchmarks/selection.py [--quick | --tiny]

All actions of one comparison take turns in this process; medians. Candidates are random pairs at trained logit scales
(t = 60 and 100), in float32; nothing is made ahead: checks and noise are inside the selection's time.

- `gemm_fraction_*`: the FLOP/s of the selection over those of its products alone, same type and threads. These are
  4(N-1) products [B, D] x [D, n]; softmax has a probe of m = b rows more, 4 products [B, D] x [D, m], on both sides.
  Products alone are done in two ways, whole as torch runs them and cut and spread over threads as the selection does
  it; the fraction is against the faster. `gemm_fraction_bf16` is the smaller of both losses, products in bfloat16.
- `gemm_cpu_fraction_*`: the same in processor time, against the cut products; other load hardly disturbs it.
- `softmax_time_over_4n_products`: time of softmax over that of the 4(N-1) products, without the probe's.
- `speedup_over_plain`: against Algorithm 1 line by line as printed, in numpy; `_plain_torch`: the same masks and full
  sums in float32 on all threads; `_gather`: the full matrix once, then rows and columns of the chosen.
- `peak_mb_65536`: the largest resident set of a process that selects from B = 65,536, all included. A quick run does 2
  of the 16 rounds there, with n as in the full run.
- `seconds_by_B`: how time grows, f = 0.8, N as above.

The last line is `BENCH {json}`.

Letters: B candidates, D width, n drawn in one round, b in all, N rounds, m rows of the probe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from measured.bench import Figures, bench_parser, machine, print_figures
from measured.full_matrix import as_printed, as_printed_in_torch, with_gathers
from measured.made import made_candidates, towers
from measured.peak import measure_peak
from measured.products import cut_products, num_flops, whole_products
from measured.turns import time_in_turn

from superbatch.selection import Candidates, SelectionSpec, select
from superbatch.selection.chunks import chunk_sizes

LOSSES = ("sigmoid", "softmax")
QUICK_PEAK_ROUNDS = 2


@dataclass(frozen=True)
class Size:
    """One configuration: `grown` are the B whose time is taken, `peak_B` the one whose memory is, None = not."""

    B: int
    b: int
    D: int
    N: int
    num_runs: int
    num_plain_runs: int
    grown: tuple[int, ...]
    peak_B: int | None


SIZES = {
    "full": Size(8192, 1638, 512, 16, 15, 3, grown=(2048, 4096, 8192, 16384, 32768, 65536), peak_B=65536),
    "quick": Size(8192, 1638, 512, 16, 3, 1, grown=(2048, 4096, 8192), peak_B=65536),
    "tiny": Size(512, 102, 64, 4, 1, 1, grown=(256, 512), peak_B=None),
}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    mode = bench_parser("Speed and memory of joint selection on a CPU.").parse_args().mode
    size = SIZES[mode]
    candidates = made_candidates(size.B, size.D)
    figures: Figures = {"mode": mode, **asdict(size), **machine("torch", "numpy")}
    figures |= {"threads": torch.get_num_threads(), "dtype": "float32"}
    for dtype, precision, suffix in ((torch.float32, "native", ""), (torch.bfloat16, "bf16", "_bf16")):
        figures |= measure_products(candidates, size, dtype=dtype, precision=precision, suffix=suffix)
    figures["gemm_fraction_bf16"] = min(float(str(figures[f"gemm_fraction_{loss}_bf16"])) for loss in LOSSES)
    figures |= measure_full_matrix(candidates, size)
    figures |= measure_memory(size, is_quick=mode == "quick")
    figures["seconds_by_B"] = measure_growth(size)
    print_figures(figures)


def measure_products(candidates: Candidates, size: Size, *, dtype: torch.dtype, precision: str, suffix: str) -> Figures:
    """Return selection and its products alone in one type, for both losses."""
    factors = [tower_BD.to(dtype) for tower_BD in towers(candidates)]
    sizes = chunk_sizes(size.b, size.N)[:-1]
    actions: dict[str, Callable[[], object]] = {}
    for loss, products in (("sigmoid", sizes), ("softmax", [*sizes, size.b])):
        actions[f"select_{loss}"] = joint(candidates, size, loss=loss, precision=precision)
        actions[f"products_whole_{loss}"] = whole_products(factors, products)
        actions[f"products_cut_{loss}"] = cut_products(factors, products)
    taken = time_in_turn(actions, num_runs=size.num_runs)
    figures: Figures = {f"{name}{suffix}_s": round(one.wall_s, 4) for name, one in taken.items()}
    fastest_s = {loss: min(taken[f"products_{way}_{loss}"].wall_s for way in ("whole", "cut")) for loss in LOSSES}
    for loss in LOSSES:
        chosen, cut = taken[f"select_{loss}"], taken[f"products_cut_{loss}"]
        figures[f"gemm_fraction_{loss}{suffix}"] = round(fastest_s[loss] / chosen.wall_s, 3)
        figures[f"gemm_cpu_fraction_{loss}{suffix}"] = round(cut.cpu_s / chosen.cpu_s, 3)
    figures[f"products{suffix}_gflops"] = round(1e-9 * num_flops(factors, sizes) / fastest_s["sigmoid"], 1)
    ratio = taken["select_softmax"].wall_s / fastest_s["sigmoid"]
    return figures | {f"softmax_time_over_4n_products{suffix}": round(ratio, 2)}


def joint(
    candidates: Candidates, size: Size, *, loss: str = "sigmoid", precision: str = "native"
) -> Callable[[], object]:
    """Return the action that selects b of the candidates in N rounds."""
    spec = SelectionSpec("joint", "learnability", size.b, size.N, loss=loss, precision=precision)  # type: ignore[arg-type]
    return lambda: select(candidates, spec)


def measure_full_matrix(candidates: Candidates, size: Size) -> Figures:
    """Return how many times as fast the selection is as the ways that keep the B x B matrix."""
    spec = SelectionSpec("joint", "learnability", size.b, size.N)
    chosen = set(select(candidates, spec).chosen_index.tolist())
    num_shared: list[int] = []

    def timed(way: Callable[[Candidates, SelectionSpec], list[int]]) -> Callable[[], None]:
        return lambda: num_shared.append(len(chosen.intersection(way(candidates, spec))))

    ways = {"plain": as_printed, "plain_torch": as_printed_in_torch, "gather": with_gathers}
    actions: dict[str, Callable[[], object]] = {"select": joint(candidates, size)}
    actions |= {name: timed(way) for name, way in ways.items()}
    taken = time_in_turn(actions, num_runs=size.num_plain_runs, warm_up=False)
    return {
        **{f"{name}_s": round(taken[name].wall_s, 3) for name in ways},
        **{f"speedup_over_{name}": round(taken[name].wall_s / taken["select"].wall_s, 2) for name in ways},
        "same_choice_fraction": round(min(num_shared) / size.b, 4),
    }


def measure_memory(size: Size, *, is_quick: bool) -> Figures:
    """Return the peak of a process that selects from `peak_B`, and what of it the towers are."""
    if size.peak_B is None:
        return {"peak_mb_65536": None, "peak_mb_65536_reason": "a tiny run does not select from 65,536; use --quick"}
    N = QUICK_PEAK_ROUNDS if is_quick else size.N
    peak = measure_peak(B=size.peak_B, D=size.D, b=size.peak_B // 5 * N // size.N, N=N)
    return {
        "peak_mb_65536": peak["peak_mb"],
        "peak_rounds": N,
        **{f"peak_{name}": peak[name] for name in ("before_mb", "towers_mb", "select_s")},
    }


def measure_growth(size: Size) -> dict[str, float]:
    """Return the seconds of one selection of a fifth of B, for each B; the larger are done once."""
    seconds: dict[str, float] = {}
    for B in size.grown:
        candidates = made_candidates(B, size.D)
        spec = SelectionSpec("joint", "learnability", B // 5, size.N)
        is_small = size.B >= B
        action = {"select": lambda: select(candidates, spec)}  # noqa: B023
        seconds[str(B)] = round(
            time_in_turn(action, num_runs=3 if is_small else 1, warm_up=is_small)["select"].wall_s, 3
        )
    return seconds


if __name__ == "__main__":
    main()
