"""What the demo runs: folders, sizes and seeds, in one place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from superbatch_server.service.demo.api import DemoFailed, JsonObject

SEED_OF_REFERENCE = 101
SEED_OF_LEARNERS = 7
"""Initial weights: reference and learners must differ, or the gain is inflated."""

SEED_OF_REFERENCE_DRAW = 1
SEED_OF_CURATED_DRAW = 2
SEED_OF_UNIFORM_DRAW = 2
"""Both arms walk the pool in the same order of blocks."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the three runs. Both learners share an initial seed; the reference has one of its own."""

    examples: Path
    work: Path
    trainer_python: str
    batch_rows: int = 128
    filter_ratio: float = 0.8
    rounds: int = 16
    block_rows: int = 40
    reference_batches: int = 200
    learner_batches: int = 160
    checkpoint_every: int = 10
    max_staleness: int = 20
    batches_per_list: int = 2

    @property
    def sample(self) -> Path:
        """Folder of the committed tars."""
        return self.examples / "sample" / "data"

    @property
    def models(self) -> Path:
        """Folder of reference, learners and checkpoints: the root `models`."""
        return self.work / "models"

    def dataset(self, split: str) -> JsonObject:
        """Return the body of `POST /v1/datasets` for a split of the sample."""
        listed = _manifest(self.sample)
        shards = [
            {"key": shard["path"], "source": shard["source"], "sha256": shard["sha256"]}
            for shard in listed
            if shard["split"] == split
        ]
        return {"name": f"sample {split}", "root": "sample", "shards": shards}

    def tars(self, split: str) -> list[Path]:
        """Return the tars of a split."""
        return [self.sample / str(shard["path"]) for shard in _manifest(self.sample) if shard["split"] == split]

    def uniform_job(self, dataset: str, *, num_batches: int, seed: int) -> JsonObject:
        """Return a job of plain random batches."""
        selection: JsonObject = {"method": "uniform", "b": self.batch_rows, "f": 0.0}
        return self._job("uniform", dataset, selection, num_batches=num_batches, seed=seed)

    def curate_job(self, dataset: str, reference: str, learner: str, *, seed: int) -> JsonObject:
        """Return the curate job: joint, sigmoid, learnability, refreshed by pushed checkpoints."""
        selection: JsonObject = {
            "method": "joint",
            "criterion": "learnability",
            "b": self.batch_rows,
            "f": self.filter_ratio,
            "N": self.rounds,
        }
        return {
            **self._job("curated", dataset, selection, num_batches=self.learner_batches, seed=seed),
            "reference": reference,
            "learner": {"model": learner, "updates": "pushed"},
            "refresh": {
                "max_staleness": self.max_staleness,
                "on_stale": "wait",
                "before_first": "easy_reference",
            },
        }

    def _job(self, name: str, dataset: str, selection: JsonObject, *, num_batches: int, seed: int) -> JsonObject:
        return {
            "kind": "curate",
            "name": name,
            "dataset": dataset,
            "selection": selection,
            "draw": {"block_rows": self.block_rows},
            "lists": {"batches_per_list": self.batches_per_list},
            "num_batches": num_batches,
            "seed": seed,
        }


def _manifest(sample: Path) -> list[JsonObject]:
    path = sample / "MANIFEST.json"
    if not path.exists():
        raise DemoFailed(
            f"the demo needs the committed sample; {path} is missing. "
            "Run it in a checkout of the repository, or name its folder with --examples"
        )
    return cast("list[JsonObject]", json.loads(path.read_text())["shards"])
