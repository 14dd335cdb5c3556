"""preview.svg: learnability of the batch over N and over f, as shares of a unit, with the nats beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from superbatch_server.preview.drawing import Chart, Point, Series, Style, Tick, draw, round_ticks
from superbatch_server.preview.embedded import MODELS, EmbeddedSample
from superbatch_server.preview.findings import Curve, CurvePoint, Findings, Share, unit_name
from superbatch_server.preview.plan import INDEPENDENT, UNIT_RATIO

_HEADROOM = 1.1
"""Room above the highest point, for its value."""


def picture(sample: EmbeddedSample, findings: Findings) -> str:
    """Return the SVG."""
    plan = findings.plan
    models = ((name, sample.model(name)) for name in MODELS)
    scales = ", ".join(f"{name} {model.logit_scale:.3g}" for name, model in models if model is not None)
    spread = f"Bars: lowest and highest of {plan.num_seeds} seeds." if plan.num_seeds > 1 else "One seed: no spread."
    about = (
        f"{sample.source}: {len(sample):,} rows; b = {plan.b:,}; {plan.loss} loss; {plan.criterion}; "
        f"gain {plan.gain:g}; logit scales: {scales}. {spread}"
    )
    return draw([_chart_of_chunks(findings), _chart_of_ratios(findings)], title=findings.chunks, notes=[about])


def _chart_of_chunks(findings: Findings) -> Chart:
    plan, curve = findings.plan, findings.over_N
    name, uniform, unit = unit_name(plan), fmean(findings.uniform), fmean(curve.one)
    places = _log_places([point.x for point in curve.points])
    if curve.has_unit:
        note = f"0 = N = 1, independent selection; 1 = {name}. A uniform batch has {_nats(uniform)}."
    else:
        note = f"A uniform batch has {_nats(uniform)}, {name} {_nats(unit)}."
    return Chart(
        title=findings.chunks,
        y_name=f"share of {name}" if curve.has_unit else "nats per pair",
        y_far_name="nats per pair" if curve.has_unit else "",
        x_name=f"N, chunks (f = {plan.f:g}, B = {plan.num_candidates(plan.f):,})",
        y_ticks=_share_ticks([curve]) if curve.has_unit else _plain_ticks([curve], others=[uniform, unit]),
        x_ticks=[Tick(place, f"{point.x:g}") for place, point in zip(places, curve.points, strict=True)],
        series=[_series("joint", "main", places, curve)],
        one=(1.0 if curve.has_unit else unit, name),
        notes=[f"{note} {findings.caveat}"],
    )


def _chart_of_ratios(findings: Findings) -> Chart:
    plan, curve = findings.plan, findings.over_f
    places = _log_places([1 / (1 - f) for f in plan.ratios])
    series = [_series(f"N = {plan.num_chunks}", "main", places, curve)]
    if plan.num_chunks != INDEPENDENT:
        series.append(_series("N = 1, independent", "second", places, findings.over_f_independent))
    both = [curve, findings.over_f_independent]
    note = f"0 = f = 0, a uniform batch; 1 = f = {UNIT_RATIO:g} with N = {plan.num_chunks}."
    return Chart(
        title=findings.ratios,
        y_name=f"share of f = {UNIT_RATIO:g}" if curve.has_unit else "nats per pair",
        y_far_name="nats per pair" if curve.has_unit else "",
        x_name="f, filter ratio; below it B, candidates per batch",
        y_ticks=_share_ticks(both) if curve.has_unit else _plain_ticks(both, others=[]),
        x_ticks=[
            Tick(place, f"{f:g}", far=f"{plan.num_candidates(f):,}")
            for place, f in zip(places, plan.ratios, strict=True)
        ],
        series=series,
        one=(1.0, "") if curve.has_unit else None,
        notes=[note if curve.has_unit else "f = 0 is a uniform batch."],
    )


def drawn(point: CurvePoint) -> Share:
    """Return what is drawn of a point: its share where it has one, else its nats per pair with their range."""
    return point.share or Share(point.mean, min(point.values), max(point.values))


def value_text(value: float, *, span: float = 0.0) -> str:
    """Return a value as it stands in the picture, with the digits that it, or a scale of this span, needs."""
    size = max(span, 0.0 if span else abs(value))
    digits = 2 if size < 10 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _series(label: str, style: Style, places: Sequence[float], curve: Curve) -> Series:
    # The second curve begins with the same uniform batch as the first, which has its value beside it.
    points = [
        Point(place, at.mean, at.low, at.high, "" if style == "second" and place == 0 else value_text(at.mean))
        for place, at in zip(places, map(drawn, curve.points), strict=True)
    ]
    return Series(label, style, points, texts="below" if style == "second" else "above")


def _share_ticks(curves: Sequence[Curve]) -> list[Tick]:
    """Return ticks in shares, with nats per pair on the far side: both axes are one scale, since shares are linear."""
    zero, one = fmean(curves[0].zero), fmean(curves[0].one)
    ends = _ends(curves)
    ticks = round_ticks(min(0.0, *ends), _HEADROOM * max(1.0, *ends))
    span = (ticks[-1] - ticks[0]) * (one - zero)
    return [Tick(at, f"{at:g}", far=value_text(zero + at * (one - zero), span=span)) for at in ticks]


def _plain_ticks(curves: Sequence[Curve], *, others: Sequence[float]) -> list[Tick]:
    ends = [*others, *_ends(curves)]
    room = (_HEADROOM - 1) * (max(ends) - min(ends))
    ticks = round_ticks(min(ends) - room, max(ends) + room)
    return [Tick(at, f"{at:g}".replace("-", "\N{MINUS SIGN}")) for at in ticks]


def _ends(curves: Sequence[Curve]) -> list[float]:
    shown = [drawn(point) for curve in curves for point in curve.points]
    return [value for at in shown for value in (at.low, at.high)]


def _log_places(values: Sequence[float]) -> list[float]:
    """Return where values stand on a logarithmic axis from the lowest, at 0, to the highest, at 1."""
    logs = [math.log2(value) for value in values]
    span = (max(logs) - min(logs)) or 1.0
    return [(log - min(logs)) / span for log in logs]


def _nats(value: float) -> str:
    return f"{value_text(value)} nats per pair"
