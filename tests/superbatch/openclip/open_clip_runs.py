"""Starts open_clip's own trainer with torchrun on two ranks, in the environment of `make openclip-env`."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[3] / ".venv-openclip" / "bin" / "python"
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Run:
    """How a run ended: exit status, what it printed, its trace, and its checkpoints."""

    status: int
    output: str
    trace: Path
    checkpoints: Path


def train(
    folder: Path,
    train_data: str,
    *,
    batch_size: int,
    num_samples: int,
    options: tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Run:
    """Train the tiny model on two ranks and return how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(MODEL))
    command = [
        *(str(PYTHON), "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "superbatch.openclip", "--model-config", str(folder / "tiny.json"), *options, "--"),
        *("--model", "tiny", "--device", "cpu", "--dist-backend", "gloo", "--precision", "fp32"),
        *("--train-data", train_data, "--dataset-type", "webdataset", "--train-num-samples", str(num_samples)),
        *("--batch-size", str(batch_size), "--lr", "1e-3", "--warmup", "2", "--log-every-n-steps", "8"),
        *("--logs", str(folder), "--name", "run", *arguments),
    ]
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "PYTHONPATH")}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SUPERBATCH_TRACE": str(folder / "trace")}
    done = subprocess.run(
        command,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        env={**plain, **offline, **(environment or {})},
    )
    return Run(done.returncode, done.stdout, folder / "trace", folder / "run" / "checkpoints")
