"""How fast a GPU selects jointly, beside its bare matrix products.

    PYTHONPATH=library python benchmarks/selection_cuda.py [--quick | --tiny] [--tilings]

Needs torch, triton and numpy only. Candidates are random pairs at trained logit scales (t = 60 and 100), in bfloat16 on
the device; the noise is made ahead, all else, checks and the answer's way back to the host included, is inside the time
of the selection. Actions take turns in this process, the device is waited for before and after each; medians.

- `cuda_ratio_*`: time of the selection over that of its products alone, `torch.mm` in bfloat16: 4(N-1) products
  [B, D] x [D, n], and for softmax a probe of m = b rows more, 4 products [B, D] x [D, m], on both sides.
- `kernel_ratio_*`: time of the engine's reductions alone over the same products: what is lost within the kernels. The
  rest of `cuda_ratio_*` is checks, draws and waiting.
- `--tilings` times the reduction of one round with other block sizes, and prints a table; nothing chooses by it.

Without a GPU the keys are null, and a tiny run puts the kernels through Triton's interpreter. The last line is
`BENCH {json}`.

Letters: B candidates, D width, n drawn in one round, b in all, N rounds, m rows of the probe.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import numpy as np
import torch
from measured.bench import Figures, bench_parser, machine, print_figures

from superbatch.selection import Candidates, DualEmbeddings, GumbelNoise, SelectionSpec, select
from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.pairs.engine import How, PairReduction
from superbatch.selection.pairs.plain_engine import PlainEngine
from superbatch.selection.spec import Loss

LOSSES: dict[Loss, How] = {"sigmoid": "softplus_sum", "softmax": "log_sum_exp"}
MOST_COLUMNS = 4096  # of one product alone: its output is 1.3 GB at the target


@dataclass(frozen=True)
class Size:
    """One configuration of the benchmark."""

    B: int
    b: int
    D: int
    N: int
    num_runs: int


SIZES = {
    "full": Size(B=163_840, b=32_768, D=768, N=16, num_runs=15),
    "quick": Size(B=163_840, b=32_768, D=768, N=16, num_runs=5),
    "tiny": Size(B=4096, b=819, D=128, N=4, num_runs=2),
}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    parser = bench_parser("Speed of a joint selection on a GPU.")
    parser.add_argument("--tilings", action="store_true", help="time other block sizes of the kernel too")
    given = parser.parse_args()
    figures: Figures = {
        "mode": given.mode,
        **asdict(SIZES[given.mode]),
        **machine("torch", "triton"),
    }
    if torch.cuda.is_available():
        figures |= measure(SIZES[given.mode])
        if given.tilings:
            print_tilings(SIZES[given.mode])
    else:
        reason = "no CUDA device here"
        figures |= {
            f"cuda_ratio_{loss}{end}": value for loss in LOSSES for end, value in (("", None), ("_reason", reason))
        }
        if given.mode == "tiny":
            figures |= interpret_kernels()
    print_figures(figures)


def measure(size: Size) -> Figures:
    """Return the ratios and times of both losses on the current CUDA device."""
    candidates = made_candidates(size)
    sizes = chunk_sizes(size.b, size.N)[:-1]
    figures: Figures = {"device": torch.cuda.get_device_name()}
    for loss, how in LOSSES.items():
        spec = SelectionSpec("joint", "learnability", b=size.b, num_chunks=size.N, loss=loss, precision="bf16")
        noise = GumbelNoise(spec.seed, spec.seq, uids=candidates.uid, device="cuda").make_ahead(size.N)
        counts = [*([size.b] if loss == "softmax" else []), *sizes]
        median_s = time_in_turn(
            {
                "select": lambda spec=spec, noise=noise: select(candidates, spec, noise=noise),
                "products": lambda counts=counts: multiply(candidates, counts),
                "kernels": lambda counts=counts, how=how: reduce(candidates, counts, how),
            },
            num_runs=size.num_runs,
        )
        tera_flops = 8e-12 * size.B * size.D * sum(counts)
        figures |= {f"{name}_s_{loss}": round(seconds, 5) for name, seconds in median_s.items()}
        figures |= {
            f"products_tflops_{loss}": round(tera_flops / median_s["products"], 1),
            f"kernel_ratio_{loss}": round(median_s["kernels"] / median_s["products"], 3),
            f"cuda_ratio_{loss}": round(median_s["select"] / median_s["products"], 3),
        }
    figures["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return figures


def multiply(candidates: Candidates, counts: list[int]) -> None:
    """Do one product [B, D] x [D, n] per tower and count, and nothing else; large n in parts."""
    for n in counts:
        for tower_BD in towers(candidates):
            for first in range(0, n, MOST_COLUMNS):
                torch.mm(tower_BD, tower_BD[first : min(n, first + MOST_COLUMNS)].T)


def reduce(candidates: Candidates, counts: list[int], how: How) -> None:
    """Do the reductions of a selection and nothing else."""
    from superbatch.selection.pairs.triton_engine import TritonEngine

    with TritonEngine(len(candidates), compute_dtype=torch.bfloat16) as engine:
        for n in counts:
            engine.reduce([PairReduction(tower, tower[:n], 100.0, -10.0, how) for tower in towers(candidates)])


def print_tilings(size: Size) -> None:
    """Print the time of one round's reductions for several block sizes."""
    from superbatch.selection.pairs.triton_engine import Tiling, TritonEngine

    candidates, n = made_candidates(size), size.b // size.N
    tilings = [
        Tiling(rows=rows, columns=columns, width=64, num_warps=num_warps, num_stages=num_stages)
        for rows, columns, num_warps, num_stages in (
            (128, 128, 4, 3),
            (128, 128, 8, 3),
            (128, 128, 8, 4),
            (64, 256, 4, 2),
            (128, 256, 8, 3),
            (128, 256, 8, 4),
            (256, 128, 8, 3),
            (256, 128, 8, 4),
        )
    ]
    actions = {"products": lambda: multiply(candidates, [n])}
    for how in LOSSES.values():
        for tiling in tilings:
            engine = TritonEngine(size.B, compute_dtype=torch.bfloat16, tiling=tiling)
            asked = [PairReduction(tower, tower[:n], 100.0, -10.0, how) for tower in towers(candidates)]
            actions[f"{how} {tiling}"] = lambda engine=engine, asked=asked: engine.reduce(asked)
    median_s = time_in_turn(actions, num_runs=size.num_runs)
    for name, seconds in median_s.items():
        print(f"{seconds / median_s['products']:6.3f} of the products  {1e3 * seconds:8.3f} ms  {name}")


def made_candidates(size: Size) -> Candidates:
    """Return random pairs at the logit scale of a trained learner and reference, in bfloat16 on the device."""
    generator = torch.Generator("cuda").manual_seed(0)

    def model(noise: float, logit_scale: float) -> DualEmbeddings:
        shared_BD = torch.randn(size.B, size.D, generator=generator, device="cuda")
        made = [shared_BD + noise * torch.randn(size.B, size.D, generator=generator, device="cuda") for _ in range(2)]
        unit = [torch.nn.functional.normalize(tower_BD, dim=1).bfloat16() for tower_BD in made]
        return DualEmbeddings(image=unit[0], text=unit[1], logit_scale=logit_scale, logit_bias=-10.0)

    return Candidates(
        uid=np.random.default_rng(0).integers(0, 256, (size.B, 16), dtype=np.uint8),
        dataset_index=np.arange(size.B, dtype=np.int64),
        learner=model(noise=1.0, logit_scale=60.0),
        reference=model(noise=0.5, logit_scale=100.0),
    )


def towers(candidates: Candidates) -> list[torch.Tensor]:
    """Return the four embeddings of a candidate set."""
    assert candidates.learner is not None
    assert candidates.reference is not None
    return [tower for model in (candidates.learner, candidates.reference) for tower in (model.image, model.text)]


def time_in_turn(actions: Mapping[str, Callable[[], object]], *, num_runs: int) -> dict[str, float]:
    """Return the median seconds of each action, the device idle before and after; two warm-ups, then turns."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for run in range(-2, num_runs):
        for name, action in actions.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            action()
            torch.cuda.synchronize()
            if run >= 0:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def interpret_kernels() -> Figures:
    """Return how far the kernels, in Triton's interpreter, are from float64; null where triton is not installed."""
    if find_spec("triton") is None:
        return {"interpreted_error": None, "interpreted_error_reason": "triton is not installed"}
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
    from superbatch.selection.pairs.triton_engine import Tiling, TritonEngine

    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.nn.functional.normalize(torch.randn(n, 24, generator=generator), dim=1).bfloat16() for n in (20, 18)
    )
    small = Tiling(rows=16, columns=16, width=16, num_warps=4, num_stages=2)
    asked = [PairReduction(left, right, 100.0, -10.0, how) for how in LOSSES.values()]
    got = TritonEngine(20, compute_dtype=torch.bfloat16, tiling=small).reduce(asked)
    exact = PlainEngine(20, compute_dtype=torch.float64).reduce(asked)
    errors = [
        float(((one - true).abs() / true.abs().clamp_min(1.0)).max()) for one, true in zip(got, exact, strict=True)
    ]
    return {"interpreted_error": max(errors)}


if __name__ == "__main__":
    main()
