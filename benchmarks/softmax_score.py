"""How learnable softmax batches get: by the conditional score, by the full marginal gain, and by what starts round 1.

    python benchmarks/softmax_score.py [--quick | --tiny]

For each data set, gain and N: the learnability of the batch (learner loss - reference loss) per row, in nats, mean over
paired seeds, and in brackets the standard error of the difference to `conditional`. Variants:

    conditional   the default: loss of i among the chosen, round 1 against a probe of b
    marginal      the rise of the whole batch's criterion when i joins
    small probe   conditional, probe of b/16
    diagonal      conditional, round 1 by the bare difference of diagonals

Data sets: made clusters whose rows confuse the learner only, at t = 100; half of the sample's pool under two encoders
trained here, at their own scales; the same at t = 100. The last line is `BENCH {json}`: how far the learnability of
each variant at gain 1 and the largest N is above the default's, in nats per row, and the time of a marginal selection
over that of a conditional one.

Letters: B candidates, D width, b chosen, N rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from measured.bench import Figures, bench_parser, machine, print_figures
from measured.sample_models import sample_candidates

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec, select, set_loss

VARIANTS: dict[str, dict[str, str]] = {
    "conditional": {},
    "marginal": {"softmax_score": "marginal"},
    "small probe": {},
    "diagonal": {"first_round": "diagonal"},
}


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    num_seeds: int
    chunks: Sequence[int]
    gains: Sequence[float]
    has_sample: bool


EXTENTS = {
    "full": Extent(num_seeds=6, chunks=(1, 2, 4, 8, 16), gains=(1.0, 10.0, 100.0), has_sample=True),
    "quick": Extent(num_seeds=2, chunks=(1, 4, 16), gains=(1.0, 100.0), has_sample=False),
    "tiny": Extent(num_seeds=2, chunks=(1, 4), gains=(1.0,), has_sample=False),
}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    description = "What the marginal gain and the probe are worth under softmax."
    mode = bench_parser(description, quick="made clusters only, under 60 s").parse_args().mode
    figures: Figures = {"mode": mode, **machine("torch"), "threads": torch.get_num_threads()}
    figures |= measure(EXTENTS[mode], num_clusters=8 if mode == "tiny" else 32)
    print_figures(figures, one_a_line=False)


def measure(extent: Extent, *, num_clusters: int) -> dict[str, float | str | None]:
    """Print one table per data set and gain; return the figures of the last line."""
    figures: dict[str, float | str | None] = {}
    for name, candidates in data_sets(extent, num_clusters=num_clusters):
        for gain in extent.gains:
            nats_SVN = learnabilities(candidates, extent, gain=gain)
            print_table(f"{name}, B = {len(candidates)}, b = {len(candidates) // 5}, gain {gain:g}", extent, nats_SVN)
            if gain == 1.0:
                over_V = nats_SVN[:, :, -1].mean(0) - nats_SVN[:, 0, -1].mean()
                for variant, over in list(zip(VARIANTS, over_V, strict=True))[1:]:
                    figures[f"{variant}_over_conditional_nats_{name}".replace(" ", "_")] = round(float(over), 4)
        if name == "clusters":
            figures["marginal_over_conditional_seconds"] = seconds_ratio(candidates)
    if not extent.has_sample:
        missing = "marginal_over_conditional_nats_sample"
        figures |= {missing: None, f"{missing}_reason": "needs encoders to be trained: full run only"}
    return figures


def data_sets(extent: Extent, *, num_clusters: int) -> Iterable[tuple[str, Candidates]]:
    """Yield each data set with its name."""
    yield "clusters", made_clusters(num_clusters)
    if extent.has_sample:
        sample = half_of(sample_candidates(learner_steps=20, reference_steps=80))
        assert sample.learner is not None
        assert sample.reference is not None
        print(
            f"\nsample: t = {sample.learner.logit_scale:.1f} (learner), {sample.reference.logit_scale:.1f} (reference)"
        )
        yield "sample", sample
        grown = {name: replace(getattr(sample, name), logit_scale=100.0) for name in ("learner", "reference")}
        yield "grown", replace(sample, **grown)


def half_of(candidates: Candidates) -> Candidates:
    """Return every second candidate."""
    every = np.arange(0, len(candidates), 2)
    assert candidates.learner is not None
    assert candidates.reference is not None
    return Candidates(
        uid=candidates.uid[every],
        dataset_index=candidates.dataset_index[every],
        learner=candidates.learner.take(every),
        reference=candidates.reference.take(every),
    )


def made_clusters(num_clusters: int, *, per_cluster: int = 40, D: int = 64) -> Candidates:
    """Return rows of which those of one cluster look alike to the learner, and apart to the reference."""
    rng = np.random.default_rng(0)
    B = num_clusters * per_cluster
    centre_BD = np.repeat(rng.standard_normal((num_clusters, D)), per_cluster, axis=0)
    own_BD = rng.standard_normal((B, D))

    def seen(own_part: float) -> DualEmbeddings:
        towers = [centre_BD + own_part * own_BD + 0.1 * rng.standard_normal((B, D)) for _ in range(2)]
        unit = [torch.from_numpy(tower / np.linalg.norm(tower, axis=1, keepdims=True)).float() for tower in towers]
        return DualEmbeddings(unit[0], unit[1], 100.0, 0.0)

    uid = rng.integers(0, 256, (B, 16), dtype=np.uint8)
    return Candidates(uid=uid, dataset_index=np.arange(B), learner=seen(0.1), reference=seen(2.0))


def learnabilities(candidates: Candidates, extent: Extent, *, gain: float) -> np.ndarray:
    """Return the learnability per row of the batch for each seed, variant and N."""
    return np.array(
        [
            [
                [learnability(candidates, spec_of(candidates, variant, N, gain, seed)) for N in extent.chunks]
                for variant in VARIANTS
            ]
            for seed in range(extent.num_seeds)
        ]
    )


def spec_of(candidates: Candidates, variant: str, N: int, gain: float, seed: int) -> SelectionSpec:
    """Return the selection of one in five of the candidates by a variant."""
    b = len(candidates) // 5
    plain = SelectionSpec("joint", "learnability", b, N, gain=gain, seed=seed, loss="softmax")
    probe_size = b // 16 if variant == "small probe" else None
    return replace(plain, probe_size=probe_size, **VARIANTS[variant])  # type: ignore[arg-type]


def learnability(candidates: Candidates, spec: SelectionSpec) -> float:
    """Return learner loss - reference loss of the selected batch, per row."""
    assert candidates.learner is not None
    assert candidates.reference is not None
    chosen = select(candidates, spec).chosen_index
    losses = [set_loss(model.take(chosen), loss="softmax") for model in (candidates.learner, candidates.reference)]
    return (losses[0] - losses[1]) / spec.b


def print_table(title: str, extent: Extent, nats_SVN: np.ndarray) -> None:
    """Print the means, and the standard errors of the paired differences to the first variant."""
    difference_SVN = nats_SVN - nats_SVN[:, :1]
    error_VN = difference_SVN.std(0, ddof=1) / np.sqrt(extent.num_seeds)
    print(f"\n{title}, {extent.num_seeds} seeds")
    print("N".ljust(12) + "".join(f"{N:>17}" for N in extent.chunks))
    for index, variant in enumerate(VARIANTS):
        cells = [
            f"{mean:9.4f} ({error:.4f})" for mean, error in zip(nats_SVN.mean(0)[index], error_VN[index], strict=True)
        ]
        print(variant.ljust(12) + "".join(f"{cell:>17}" for cell in cells))


def seconds_ratio(candidates: Candidates) -> float:
    """Return the median time of a marginal selection over that of a conditional one, N = 16, in turn."""
    seconds: dict[str, list[float]] = {"conditional": [], "marginal": []}
    for _ in range(5):
        for variant, taken in seconds.items():
            start = time.perf_counter()
            select(candidates, spec_of(candidates, variant, 16, 1.0, 0))
            taken.append(time.perf_counter() - start)
    return round(statistics.median(seconds["marginal"]) / statistics.median(seconds["conditional"]), 2)


if __name__ == "__main__":
    main()
