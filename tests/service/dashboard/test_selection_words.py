"""How a job selects, in a few words."""

from __future__ import annotations

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.service.dashboard.selection_words import selection_of


def limits_of(**selection: object) -> str:
    fields = {
        "dataset": "dataset_" + "0" * 16,
        "num_batches": 1,
        "selection": {"method": "uniform", "b": 16, **selection},
    }
    return selection_of(CurateSpec.model_validate(fields)).limits


def test_variants_are_told_with_what_training_costs() -> None:
    full = {"resolution": 224, "patch": 16, "flops_fraction": 1.0, "share": 0.5}
    low = {"resolution": 224, "patch": 32, "flops_fraction": 0.28, "share": 0.5}
    assert limits_of(variants=[full, low]) == "2 variants, 0.64 of the FLOPs"
    assert limits_of(variants=[full | {"share": 1.0}]) == limits_of() == ""
