"""The main job, stage by stage, through the REST API: reference, curated learner, uniform learner, verdict."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from superbatch.cli.progress import ProgressLine, bar
from superbatch_server.service.demo.api import Api, DemoFailed, JsonObject, say
from superbatch_server.service.demo.plan import Plan
from superbatch_server.service.demo.processes import run_json, running
from superbatch_server.service.demo.report import Arm

_ROLES = {"config": "config.json", "tokenizer": "tokenizer.json", "weights": "model.safetensors"}


@dataclass(frozen=True)
class Stages:
    """Each stage takes what the one before it made."""

    api: Api
    plan: Plan
    token_file: Path

    def register_dataset(self, split: str) -> str:
        """Register a split and wait until its rows are counted."""
        dataset = self.api.post("/v1/datasets", self.plan.dataset(split))
        found = self.api.wait_ready(f"/v1/datasets/{dataset['id']}")
        say(f"  {split}: {found['rows']:,} rows in {found['num_shards']} shards, {str(found['fingerprint'])[:12]}...")
        return str(found["id"])

    def start_model(self) -> None:
        """Write config.json and tokenizer.json, learned from the captions of the clean split."""
        command = [self.plan.trainer_python, "-m", "superbatch.tiny", "--out", str(self.plan.models / "fresh")]
        self._run([*command, "--captions", *map(str, self.plan.tars("clean"))], name="tokenizer")

    def register_model(self, name: str, folder: str, *, weights: bool) -> str:
        """Register the files of a folder of the root `models`."""
        roles = {role: file for role, file in _ROLES.items() if weights or role != "weights"}
        files = [
            {"role": role, "root": "models", "key": f"{folder}/{file}", "sha256": self._sha256(f"{folder}/{file}")}
            for role, file in roles.items()
        ]
        model = self.api.post("/v1/models", {"name": name, "family": "tiny", "files": files})
        return str(self.api.wait_ready(f"/v1/models/{model['id']}")["id"])

    def submit(self, body: JsonObject) -> str:
        """Submit a job; return its id."""
        job = str(self.api.post("/v1/jobs", body)["id"])
        say(f"  job {job}: {body['num_batches']} batches, dashboard {self.api.url}/jobs/{job}")
        return job

    def train(self, job: str, name: str, *, num_batches: int, seed: int, pushes: bool) -> JsonObject:
        """Run the example trainer on a job until its last batch, and return its metrics."""
        out = self.plan.models / name
        command = [
            self.plan.trainer_python,
            str(self.plan.examples / "train_tiny.py"),
            *("--url", self.api.url, "--job", job, "--token-file", str(self.token_file)),
            *("--init-model", str(self.plan.models / "fresh"), "--out", str(out), "--init-seed", str(seed)),
            *("--log", "json", "--name", name),
        ]
        if pushes:
            command += ["--checkpoint-every", str(self.plan.checkpoint_every)]
            command += ["--push-root", f"models={self.plan.models}"]
        log_path = self.plan.work / f"{name}.log"
        line = ProgressLine(sys.stdout)
        with running(command, log_path=log_path) as trainer:
            while trainer.poll() is None:
                line.show(f"  {name}", self._progress(job, log_path, num_batches, plain=line.is_plain))
                time.sleep(0.25)
        if trainer.returncode:
            self.api.check_running(job)
            raise DemoFailed(f"the trainer ended with {trainer.returncode}:\n{log_path.read_text()[-2000:]}")
        line.show(f"  {name}:", self._progress(job, log_path, num_batches, plain=line.is_plain))
        line.end()
        self.api.wait_job(job)
        return cast("JsonObject", json.loads((out / "metrics.json").read_text()))

    def _progress(self, job: str, log_path: Path, total: int, *, plain: bool) -> str:
        lines = [line for line in log_path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        if not lines:
            return f"the service is {self.api.check_running(job)['phase'] or 'starting'}"
        step = json.loads(lines[-1])
        done = bar(step["step"] / total, plain=plain)
        return f"{done} {step['step']:>4}/{total}  loss {step['loss']:.3f}, generation {step['generation']}"

    def evaluate(self, name: str) -> JsonObject:
        """Measure retrieval and zero-shot accuracy of a trained model on the held-out split."""
        command = [sys.executable, "-m", "superbatch_server.training.evaluate", "--json"]
        command += ["--model", str(self.plan.models / name), "--data", str(self.plan.sample)]
        return run_json(command, log_path=self.plan.work / f"evaluate-{name}.log")

    def arm(self, name: str, metrics: JsonObject, *, curation_flops: float = 0.0, reference_flops: float = 0.0) -> Arm:
        """Return one row of the verdict."""
        quality = self.evaluate(name)
        return Arm(
            name=name,
            loaded_examples=cast("int", metrics["examples_loaded"]),
            trained_examples=cast("int", metrics["examples_trained"]),
            training_flops=cast("float", metrics["training_flops"]),
            curation_flops=curation_flops,
            reference_flops=reference_flops,
            retrieval_r5_fraction=cast("float", quality["recall_at_5"]),
            zero_shot_fraction=cast("float", quality["zero_shot_accuracy"]),
            seconds=cast("float", metrics["seconds"]),
        )

    def _sha256(self, key: str) -> str:
        return hashlib.sha256((self.plan.models / key).read_bytes()).hexdigest()

    def _run(self, command: list[str], *, name: str) -> None:
        log_path = self.plan.work / f"{name}.log"
        with running(command, log_path=log_path) as child:
            child.wait()
        if child.returncode:
            raise DemoFailed(f"{name} ended with {child.returncode}:\n{log_path.read_text()[-2000:]}")


def curation_flops(stats: JsonObject, *, pool_rows: int, forward_flops: float) -> float:
    """Return what curation cost: the reference over the pool once, the learner over every candidate that it scored.

    Batches composed by a rule without the learner (`easy_reference`) cost no learner pass.
    """
    scored = sum(
        sum(cast("list[int]", segment["B"]))
        for segment in cast("list[JsonObject]", stats["segments"])
        if segment["rule"] == "checkpoint"
    )
    return forward_flops * (pool_rows + scored)
