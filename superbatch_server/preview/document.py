"""preview.json: everything that the picture shows, and every value behind it. docs/preview.md describes it."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean

from superbatch.formats.canonical import JsonObject, JsonValue
from superbatch_server.preview.embedded import MODELS, EmbeddedSample
from superbatch_server.preview.findings import Curve, CurvePoint, Findings, unit_name
from superbatch_server.preview.plan import UNIT_RATIO

FORMAT = "superbatch-preview-v1"


def document(sample: EmbeddedSample, findings: Findings) -> JsonObject:
    """Return the document; learnability is in nats per pair of the batch, one value per seed."""
    plan = findings.plan
    return {
        "format": FORMAT,
        "sample": _sample(sample),
        "selection": {"loss": plan.loss, "criterion": plan.criterion, "gain": plan.gain, "b": plan.b},
        "num_seeds": plan.num_seeds,
        "chunks": {
            "f": plan.f,
            "B": plan.num_candidates(plan.f),
            "zero": "N = 1",
            "one": unit_name(plan),
            "points": [{"N": int(point.x), **_values(point)} for point in findings.over_N.points],
            "gibbs": _gibbs(findings) if findings.gibbs else None,
        },
        "ratios": {
            "N": plan.num_chunks,
            "zero": "f = 0",
            "one": f"f = {UNIT_RATIO:g}, N = {plan.num_chunks}",
            "points": _over_f(findings.over_f, findings),
            "independent_points": _over_f(findings.over_f_independent, findings),
        },
        "findings": {
            "chunks": findings.chunks,
            "ratios": findings.ratios,
            "recommendation": findings.recommendation,
            "recommended_num_chunks": findings.recommended_num_chunks,
        },
    }


def _sample(sample: EmbeddedSample) -> JsonObject:
    models: dict[str, JsonValue] = {}
    for name in MODELS:
        if (model := sample.model(name)) is not None:
            width, scale, bias = model.image.shape[1], model.logit_scale, model.logit_bias
            models[name] = {"D": width, "logit_scale": scale, "logit_bias": bias}
    left_out: dict[str, JsonValue] = dict(sample.num_left_out)
    return {"source": sample.source, "rows": len(sample), "left_out": left_out, **models}


def _gibbs(findings: Findings) -> JsonObject:
    return {
        "learnability": list(findings.over_N.one),
        "learnability_mean": fmean(findings.over_N.one),
        "iterations": [run.num_iterations for run in findings.gibbs],
        "is_flat": [run.is_flat for run in findings.gibbs],
    }


def _over_f(curve: Curve, findings: Findings) -> list[JsonValue]:
    return [{"f": p.x, "B": findings.plan.num_candidates(p.x), **_values(p)} for p in curve.points]


def _values(point: CurvePoint) -> JsonObject:
    share: JsonObject | None = None if point.share is None else asdict(point.share)
    return {"learnability": list(point.values), "learnability_mean": point.mean, "share": share}
