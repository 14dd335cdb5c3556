"""Registering the small world with a service, and the job that the end-to-end tests run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.e2e.house import House
from tests.e2e.sample_world import World

NUM_BATCHES = 24


@dataclass(frozen=True)
class Registered:
    """Ids of the small world's objects in one service."""

    dataset: str
    reference: str
    learner: str

    def curate(self, **changes: Any) -> dict[str, Any]:
        """Return the body of a curate job with a pushed learner."""
        spec: dict[str, Any] = {
            "kind": "curate",
            "dataset": self.dataset,
            "reference": self.reference,
            "learner": {"model": self.learner, "updates": "pushed"},
            "selection": {"method": "joint", "criterion": "learnability", "b": 16, "f": 0.75, "N": 4},
            "refresh": {"max_staleness": 8, "on_stale": "wait", "before_first": "easy_reference"},
            "lists": {"batches_per_list": 2},
            "num_batches": NUM_BATCHES,
            "seed": 5,
        }
        return {**spec, **changes}

    def static(self, **changes: Any) -> dict[str, Any]:
        """Return the body of a curate job whose learner has fixed weights: no trainer is needed."""
        return self.curate(learner={"model": self.learner, "updates": "none"}, **changes)


def register(house: House, world: World) -> Registered:
    """Register data set, reference and learner, and wait until they are READY."""
    dataset = house.post("/v1/datasets", world.manifest())["id"]
    models = {
        name: house.post("/v1/models", {"name": name, "family": "tiny", "files": world.model_files(name)})["id"]
        for name in ("reference", "learner")
    }
    house.ready(f"/v1/datasets/{dataset}")
    for model in models.values():
        house.ready(f"/v1/models/{model}")
    return Registered(dataset=dataset, **models)
