"""The main job in its order: data sets, reference, curated learner, uniform learners, verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from superbatch_server.service.demo import report
from superbatch_server.service.demo.api import JsonObject, say
from superbatch_server.service.demo.plan import (
    SEED_OF_CURATED_DRAW,
    SEED_OF_LEARNERS,
    SEED_OF_REFERENCE,
    SEED_OF_REFERENCE_DRAW,
    SEED_OF_UNIFORM_DRAW,
)
from superbatch_server.service.demo.stages import Stages, curation_flops


@dataclass(frozen=True)
class Trained:
    """A model that was trained on a job."""

    job: str
    metrics: JsonObject

    @property
    def training_flops(self) -> float:
        """FLOPs of its training alone."""
        return cast("float", self.metrics["training_flops"])


def run_main_job(stages: Stages) -> tuple[list[report.Arm], JsonObject]:
    """Do everything through the REST API; return the arms of the verdict and the curate job's statistics."""
    say("1. Registering the clean split and the pool as data sets.")
    clean, pool = stages.register_dataset("clean"), stages.register_dataset("pool")
    stages.start_model()

    say("2. Training the reference on uniform batches of the clean split, with an initial seed of its own.")
    job = stages.plan.uniform_job(clean, num_batches=stages.plan.reference_batches, seed=SEED_OF_REFERENCE_DRAW)
    reference = _train_uniform(stages, "reference", job, initial_seed=SEED_OF_REFERENCE)
    curated, stats, cost = _train_curated(stages, pool)

    say("5. Training the same learner, from the same initial seed, on uniform batches of the same pool.")
    num_batches = stages.plan.learner_batches
    job = stages.plan.uniform_job(pool, num_batches=num_batches, seed=SEED_OF_UNIFORM_DRAW)
    uniform = _train_uniform(stages, "uniform", job, initial_seed=SEED_OF_LEARNERS)

    say("6. And once more for as many FLOPs as training and curating took together: curation has its price.")
    equal = round(num_batches * (curated.training_flops + cost) / uniform.training_flops)
    job = stages.plan.uniform_job(pool, num_batches=equal, seed=SEED_OF_UNIFORM_DRAW)
    uniform_equal = _train_uniform(stages, "uniform-flops", job, initial_seed=SEED_OF_LEARNERS)

    say("7. Measuring all of them on the held-out split.")
    return [
        stages.arm("reference", reference.metrics),
        stages.arm("curated", curated.metrics, curation_flops=cost, reference_flops=reference.training_flops),
        stages.arm("uniform", uniform.metrics),
        stages.arm("uniform-flops", uniform_equal.metrics),
    ], stats


def _train_uniform(stages: Stages, name: str, body: JsonObject, *, initial_seed: int) -> Trained:
    job = stages.submit(body)
    num_batches = cast("int", body["num_batches"])
    return Trained(job, stages.train(job, name, num_batches=num_batches, seed=initial_seed, pushes=False))


def _train_curated(stages: Stages, pool: str) -> tuple[Trained, JsonObject, float]:
    """Return the learner trained on curated batches, the job's statistics, and the FLOPs that curation cost."""
    plan = stages.plan
    reference = stages.register_model("reference", "reference", weights=True)
    learner = stages.register_model("learner", "fresh", weights=False)
    say("3. Curating the pool: Ray workers index and embed it; each batch is the most learnable fifth, chosen jointly.")
    job = stages.submit(plan.curate_job(pool, reference, learner, seed=SEED_OF_CURATED_DRAW))
    say("4. Training a learner on the curated batches while it pushes its checkpoints back.")
    metrics = stages.train(job, "curated", num_batches=plan.learner_batches, seed=SEED_OF_LEARNERS, pushes=True)
    trained = Trained(job, metrics)
    stats = stages.api.get(f"/v1/jobs/{job}/stats")
    forward_flops = (
        trained.training_flops / report.FORWARD_AND_BACKWARD / cast("int", trained.metrics["examples_trained"])
    )
    cost = curation_flops(stats, pool_rows=cast("int", stats["rows"]), forward_flops=forward_flops)
    return trained, stats, cost
