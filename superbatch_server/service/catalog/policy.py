"""The policy of a job as trainers read it, in the manifest and in the head of the log."""

from __future__ import annotations

from superbatch.formats.manifest import Policy, Variant
from superbatch.formats.schedule import largest_super_batch, parse_schedule
from superbatch_server.schemas.jobs import CurateSpec


def policy_of(spec: CurateSpec) -> Policy:
    """Return how the batches of a job are selected, from its spec."""
    written = spec.selection.model_dump(mode="json")
    f = parse_schedule(written["f"])
    return Policy(
        method=written["method"],
        criterion=written["criterion"] if spec.selection.criteria() else None,
        b=spec.selection.b,
        B=largest_super_batch(spec.selection.b, f, spec.num_batches),
        f=written["f"],
        N=spec.selection.N,
        loss=spec.selection.loss,
        precision=spec.selection.precision,
        first_round=spec.selection.first_round if spec.selection.loss == "softmax" else None,
        probe_size=spec.selection.probe_size,
        repetition_cap=spec.selection.repetition_cap,
        max_cosine=spec.selection.max_cosine,
        variants=tuple(Variant(v.resolution, v.patch, v.flops_fraction) for v in spec.selection.variants),
    )
