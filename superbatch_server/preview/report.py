"""What `superbatch preview` prints: both curves as tables, and what they mean."""

from __future__ import annotations

from statistics import fmean

from superbatch.cli.text import table
from superbatch_server.preview.findings import CurvePoint, Findings, unit_name
from superbatch_server.preview.plan import INDEPENDENT, UNIT_RATIO

_HEADINGS = ("nats per pair", "share", "lowest", "highest")


def report(findings: Findings) -> str:
    """Return both tables, each with its unit above and its sentence below."""
    plan = findings.plan
    over_N = [(f"{point.x:g}", *_cells(point)) for point in findings.over_N.points]
    if plan.num_iterations:
        share = "1.00" if findings.over_N.has_unit else "-"
        over_N.append(("Gibbs", f"{fmean(findings.over_N.one):.3f}", share, "-", "-"))
    over_f = [
        (f"{point.x:g}", str(N), *_cells(point))
        for N, curve in ((plan.num_chunks, findings.over_f), (INDEPENDENT, findings.over_f_independent))
        for point in curve.points
    ]
    return "\n".join(
        [
            f"Learnability of the batch over N at f = {plan.f:g} (share: 0 = N = 1, 1 = {unit_name(plan)})",
            table(("N", *_HEADINGS), over_N),
            f"{findings.chunks}. {findings.recommendation} {findings.caveat}".rstrip(),
            "",
            f"Over f (share: 0 = a uniform batch, 1 = f = {UNIT_RATIO:g} with N = {plan.num_chunks})",
            table(("f", "N", *_HEADINGS), over_f),
            f"{findings.ratios}.",
        ]
    )


def _cells(point: CurvePoint) -> tuple[str, ...]:
    share = point.share
    shares = ("-", "-", "-") if share is None else tuple(f"{x:.2f}" for x in (share.mean, share.low, share.high))
    return (f"{point.mean:.3f}", *shares)
