"""The paper's Fig. 2 with two trained encoders: learnability of the batch over N and f, beside the paper's values.

    python benchmarks/figure2.py [--quick | --tiny] [--svg FILE]

A reference is trained on the clean rows of the sample and a learner, from another seed, on its pool; the candidates are
the pool, as in a curate job. The learner is looked at young and grown, under both losses, at the logit scales as
trained and with both models' scales set to 100 (the sigmoid bias in proportion: the cosine at which a pair counts as
positive stays where training put it). Beside them a made case: clusters that the learner confuses and the reference
tells apart, at t = 100.

Shares over N: 0 = N = 1, 1 = Gibbs sampling, f = 0.8. Shares over f: 0 = a uniform batch, 1 = f = 0.5, N = 16. A case
in which Gibbs does not gain at least 1% over N = 1 in every seed has no shares over N: null, with the reason. `--svg`
writes the picture. The last line is `BENCH {json}`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from measured.bench import Figures, bench_parser, machine, print_figures
from measured.stages import tars_of, train_clean_tokenizer, train_stages
from torch.nn.functional import normalize

from superbatch.selection import DualEmbeddings
from superbatch.selection.spec import Loss
from superbatch_server.preview.curves import measure
from superbatch_server.preview.drawing import Chart, Point, Series, Style, Tick, draw, round_ticks
from superbatch_server.preview.embedded import EmbeddedSample, drawn_sample, row_uid
from superbatch_server.preview.encode import embed_tars
from superbatch_server.preview.findings import Curve, Findings, find
from superbatch_server.preview.picture import value_text
from superbatch_server.preview.plan import Plan

PAPER_CHUNKS: dict[float, float] = {1: 0.0, 2: 0.69, 4: 0.885, 8: 0.96, 16: 0.99, 32: 1.0}
PAPER_RATIOS = {0.0: 0.0, 0.5: 1.0, 0.8: 1.12, 0.9: 1.15}

NO_UNIT = {
    "N": "Gibbs gains less than 1% over N = 1, or not in every seed",
    "f": "f = 0.5 does not gain over a uniform batch in every seed",
}

SEED_OF_REFERENCE, SEED_OF_LEARNER = 101, 7
GROWN_SCALE = 100.0
MOST_ROWS = 10_000
OWN_PART: dict[Loss, float] = {"sigmoid": 0.5, "softmax": 0.1}
"""How much of its own a row of the made clusters shows to the learner: little enough that its loss confuses them."""


@dataclass(frozen=True)
class Extent:
    """How much is done. At most `tars` tars of a split are read; `clusters` are how many, and rows of each."""

    reference_steps: int
    young_steps: int
    grown_steps: int
    b: int
    num_seeds: int
    num_iterations: int
    chunks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    clusters: tuple[int, int] = (128, 40)
    losses: tuple[Loss, ...] = ("sigmoid", "softmax")
    tars: int = 100


EXTENTS = {
    "full": Extent(200, 40, 400, b=350, num_seeds=3, num_iterations=2000),
    "quick": Extent(60, 20, 60, b=100, num_seeds=2, num_iterations=400, clusters=(25, 40)),
    "tiny": Extent(2, 1, 2, 16, 2, 4, chunks=(1, 16), clusters=(4, 40), losses=("sigmoid",), tars=1),
}


@dataclass(frozen=True)
class Case:
    """One row of the table: two encoders on one set of candidates, under one loss."""

    loss: Loss
    learner: str
    scale: str
    sample: EmbeddedSample

    @property
    def key(self) -> str:
        """Return what this case's figures begin with."""
        return f"{self.loss}_{self.learner}_{self.scale}"

    @property
    def logit_scales(self) -> str:
        """Return both scales, learner's first."""
        models = (self.sample.learner, self.sample.reference)
        return " / ".join(f"{model.logit_scale:.1f}" for model in models if model is not None)


def main() -> None:
    """Measure what the arguments ask for and print it."""
    description = "Fig. 2 of the JEST paper with encoders trained here."
    parser = bench_parser(description, quick="shorter training, b = 100; under 60 s")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture")
    args = parser.parse_args()
    extent = EXTENTS[args.mode]
    run: Figures = {"mode": args.mode, **machine("torch")}
    if args.mode == "tiny":
        torch.set_num_threads(1)
    began_s = time.monotonic()
    found: list[tuple[Case, Findings]] = []
    for case in cases(extent):
        found.append((case, measured(case, extent)))
        print(f"{time.monotonic() - began_s:5.0f} s  {case.key}", file=sys.stderr)
    print(chunk_table(found), ratio_table(found), sep="\n\n")
    if args.svg is not None:
        args.svg.write_text(picture(found), encoding="utf-8")
    run |= {"b": extent.b, "num_seeds": extent.num_seeds, "threads": torch.get_num_threads()}
    run |= {"seconds": round(time.monotonic() - began_s, 1), **figures(found)}
    print_figures(run, one_a_line=False)


def cases(extent: Extent) -> Iterator[Case]:
    """Yield every case; encoders are trained on the way."""
    for loss in extent.losses:
        yield Case(loss, "clusters", "t100", made_clusters(*extent.clusters, own_part=OWN_PART[loss]))
        for learner, sample in trained_samples(loss, extent):
            yield Case(loss, learner, "as_trained", sample)
            yield Case(loss, learner, "t100", with_scale(sample, GROWN_SCALE))


def trained_samples(loss: Loss, extent: Extent) -> Iterator[tuple[str, EmbeddedSample]]:
    """Yield the pool under a young and under a grown learner, and one reference."""
    pool, clean = (tars_of(split)[: extent.tars] for split in ("pool", "clean"))
    stages = (extent.young_steps, extent.grown_steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_clean_tokenizer(clean)
        learners = train_stages(pool, folder / "l", tokenizer, loss=loss, seed=SEED_OF_LEARNER, stages=stages)
        (reference,) = train_stages(
            clean, folder / "r", tokenizer, loss=loss, seed=SEED_OF_REFERENCE, stages=(extent.reference_steps,)
        )
        for learner_name, learner in zip(("young", "grown"), learners, strict=True):
            models = {"learner": learner, "reference": reference}
            sample = embed_tars(
                pool, models, num_rows=MOST_ROWS, threads=torch.get_num_threads(), on_progress=lambda *_: None
            )
            yield learner_name, drawn_sample(sample, num_rows=MOST_ROWS)


def with_scale(sample: EmbeddedSample, scale: float) -> EmbeddedSample:
    """Return the sample with both logit scales set, and biases in proportion."""

    def scaled(model: DualEmbeddings | None) -> DualEmbeddings | None:
        if model is None:
            return None
        return replace(model, logit_scale=scale, logit_bias=model.logit_bias * scale / model.logit_scale)

    return replace(sample, learner=scaled(sample.learner), reference=scaled(sample.reference))


def made_clusters(num_clusters: int, per_cluster: int, *, own_part: float, D: int = 64) -> EmbeddedSample:
    """Return rows that are alike within their cluster to the learner and apart to the reference, at t = 100.

    Two rows of one cluster are learnable negatives of each other, so a batch gains by holding whole clusters, which no
    score of single rows can see.
    """
    generator = torch.Generator().manual_seed(0)
    B = num_clusters * per_cluster
    centre_BD = torch.randn(num_clusters, D, generator=generator).repeat_interleave(per_cluster, 0)
    own_BD = torch.randn(B, D, generator=generator)

    def seen(own_part: float) -> DualEmbeddings:
        towers = [centre_BD + own_part * own_BD + 0.1 * torch.randn(B, D, generator=generator) for _ in range(2)]
        return DualEmbeddings(normalize(towers[0]), normalize(towers[1]), GROWN_SCALE, -40.0)

    uid = np.frombuffer(b"".join(map(row_uid, range(B))), dtype=np.uint8).reshape(B, 16)
    source = f"{num_clusters} made clusters"
    return EmbeddedSample(source, uid, np.arange(B, dtype=np.int64), learner=seen(own_part), reference=seen(2.0))


def measured(case: Case, extent: Extent) -> Findings:
    """Return the curves of one case."""
    plan = Plan(
        b=extent.b,
        num_chunks=16,
        chunks=extent.chunks,
        num_seeds=extent.num_seeds,
        loss=case.loss,
        num_iterations=extent.num_iterations,
    )
    return find(measure(case.sample, plan, on_progress=lambda *_: None))


def chunk_table(found: list[tuple[Case, Findings]]) -> str:
    """Return the Markdown table over N: shares, and their range over seeds in brackets."""
    chunks = found[0][1].plan.chunks
    head = ["loss, learner, scale", "t learner / reference", "uniform", "N = 1", "Gibbs", "of the gain", "iterations"]
    rows = [[*head, *(f"N = {N}" for N in chunks[1:])], ["---"] * (len(head) + len(chunks) - 1)]
    rows.append(["paper", "", "", "", "", "", "", *(_number(PAPER_CHUNKS.get(N)) for N in chunks[1:])])
    for case, findings in found:
        nats = [fmean(values) for values in (findings.uniform, findings.over_N.zero, findings.over_N.one)]
        gained = f"{100 * joint_gain(findings):.1f}%"
        flat = "" if all(run.is_flat for run in findings.gibbs) else ", not flat"
        iterations = ", ".join(str(run.num_iterations) for run in findings.gibbs) + flat
        shares = _share_cells(findings.over_N, start=1)
        rows.append([case.key, case.logit_scales, *(f"{value:.2f}" for value in nats), gained, iterations, *shares])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def ratio_table(found: list[tuple[Case, Findings]]) -> str:
    """Return the Markdown table over f, joint and independent."""
    ratios = found[0][1].plan.ratios[2:]
    head = ["loss, learner, scale", *(f"f = {f:g}" for f in ratios), *(f"f = {f:g}, N = 1" for f in ratios)]
    rows = [
        head,
        ["---"] * len(head),
        ["paper", *(_number(PAPER_RATIOS.get(f)) for f in ratios), *("" for _ in ratios)],
    ]
    for case, findings in found:
        cells = _share_cells(findings.over_f, start=2) + _share_cells(findings.over_f_independent, start=2)
        rows.append([case.key, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def joint_gain(findings: Findings) -> float:
    """Return what Gibbs gains over N = 1, as a part of what it gains over a uniform batch."""
    uniform, independent, unit = map(fmean, (findings.uniform, findings.over_N.zero, findings.over_N.one))
    return (unit - independent) / (unit - uniform)


def figures(found: list[tuple[Case, Findings]]) -> Figures:
    """Return the figures of the last line: per case the shares over N and f."""
    all_figures: Figures = {}
    for case, findings in found:
        all_figures[f"{case.key}_joint_gain"] = round(joint_gain(findings), 4)
        for letter, curve in (("N", findings.over_N), ("f", findings.over_f)):
            for point in curve.points:
                key = f"{case.key}_{letter}{point.x:g}"
                all_figures[key] = None if point.share is None else round(point.share.mean, 4)
                if point.share is None:
                    all_figures[f"{key}_reason"] = NO_UNIT[letter]
    return all_figures


def picture(found: list[tuple[Case, Findings]]) -> str:
    """Return the SVG: the paper's curves beside the sigmoid encoders at their own scales, young and grown."""
    of_case = {case.key: (case, findings) for case, findings in found}
    (young_case, young), (grown_case, grown) = (of_case[f"sigmoid_{age}_as_trained"] for age in ("young", "grown"))
    plan = grown.plan
    note = (
        f"Encoders trained here; sigmoid loss; the sample's pool; f = {plan.f:g} above, N = {plan.num_chunks} below; "
        f"b = {plan.b:,}. Logit scales (learner / reference): young {young_case.logit_scales}, grown "
        f"{grown_case.logit_scales}. Bars: lowest and highest of {plan.num_seeds} seeds. "
        "Paper: arXiv:2406.17711, Fig. 2."
    )
    charts = [
        _chart(
            f"N = 16: {_share_at(young.over_N, 16)} of Gibbs young, {_share_at(grown.over_N, 16)} grown, paper 0.99",
            ("share of Gibbs", "N, chunks"),
            [("young learner", young.over_N), ("grown learner", grown.over_N)],
            PAPER_CHUNKS,
            "0 = N = 1, independent selection; 1 = Gibbs.",
        ),
        _chart(
            f"f = 0.9: {_share_at(young.over_f, 0.9)} young, {_share_at(grown.over_f, 0.9)} grown, paper 1.15",
            ("share of f = 0.5", "f, filter ratio"),
            [("young learner", young.over_f), ("grown learner", grown.over_f)],
            PAPER_RATIOS,
            "0 = f = 0, a uniform batch; 1 = f = 0.5.",
        ),
    ]
    return draw(charts, title="The paper's Fig. 2 beside encoders trained here", notes=[note])


def _chart(
    title: str, axes: tuple[str, str], curves: list[tuple[str, Curve]], paper: dict[float, float], note: str
) -> Chart:
    """Return one chart of shares, the paper's x evenly spaced; of two curves the higher has its values above it."""
    places = {x: i / (len(paper) - 1) for i, x in enumerate(paper)}
    series = [Series("paper", "quiet", [Point(places[x], value, value, value) for x, value in paper.items()])]
    highest = max(curves, key=lambda named: named[1].share_at(max(paper)) if named[1].has_unit else 0.0)
    styles: tuple[Style, ...] = ("main", "second")
    for style, (label, curve) in zip(styles, curves, strict=True):
        shares = [(places[point.x], point.share) for point in curve.points if point.share is not None]
        # Where the unit itself stands, every curve has the same value.
        points = [
            Point(place, s.mean, s.low, s.high, "" if s.mean in (0.0, 1.0) else value_text(s.mean))
            for place, s in shares
        ]
        series.append(Series(label, style, points, texts="above" if label == highest[0] else "below"))
    ends = [end for one in series for point in one.points for end in (point.low, point.high)]
    return Chart(
        title=title,
        y_name=axes[0],
        y_far_name="",
        x_name=axes[1],
        y_ticks=[Tick(at, f"{at:g}") for at in round_ticks(min(ends), 1.1 * max(ends))],
        x_ticks=[Tick(place, f"{x:g}") for x, place in places.items()],
        series=series,
        one=(1.0, ""),
        notes=[note],
    )


def _share_at(curve: Curve, x: float) -> str:
    return value_text(curve.share_at(x)) if curve.has_unit else "no share"


def _share_cells(curve: Curve, *, start: int) -> list[str]:
    shares = [point.share for point in curve.points[start:]]
    return ["-" if s is None else f"{s.mean:.2f} ({s.low:.2f} to {s.high:.2f})" for s in shares]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    main()
