from __future__ import annotations

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from examples import train_tiny
from superbatch.formats.errors import DigestMismatch, LogStalled, ServiceError
from superbatch.tiny.weights import load_model, load_weights
from tests.examples.tiny_job import BATCH_SIZE, TinyJob
from tests.superbatch.log.fake_service import problem
from tests.superbatch.tiny.made import CONFIG


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return TinyJob(tmp_path)


def train(job: TinyJob, run: str, *further: str) -> train_tiny.Run:
    """Run the trainer as its command line does, on the service in memory."""
    args = train_tiny.arguments(job.arguments(run, "--log", "none", *further))
    args.out.mkdir(exist_ok=True)
    state_file = args.out / "state.pt"
    resumes = args.resume and state_file.exists()
    state = torch.load(state_file, weights_only=True)["log"] if resumes else None
    with job.open_log(state=state) as log:
        return train_tiny.train(log, args)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".json")}


def test_every_batch_is_trained_on_once_and_the_costs_are_counted(job: TinyJob, tmp_path: Path) -> None:
    job.publish(7, end=True)
    run = train(job, "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 7
    assert metrics["examples_trained"] == 7 * BATCH_SIZE
    assert metrics["examples_loaded"] == 7 * 20
    assert metrics["generations"] == 2
    assert metrics["max_staleness"] == 6
    assert metrics["losses"] == run.losses
    assert len(metrics["losses"]) == 7
    model, _ = load_model(tmp_path / "run")
    assert model.config == CONFIG


def test_progress_is_reported_after_every_batch_and_saved_ones_are_durable(job: TinyJob) -> None:
    job.publish(5, end=True)
    train(job, "run", "--save-every", "2", "--name", "left")
    counts = [(report["trained_seq"], report["durable_seq"]) for report in job.service.reports]
    assert counts == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4), (5, 5)]
    assert {report["name"] for report in job.service.reports} == {"left"}


def test_the_same_batches_and_seed_give_the_same_weights_and_another_seed_others(job: TinyJob, tmp_path: Path) -> None:
    job.publish(4, end=True)
    for run, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        train(job, run, "--init-seed", seed)
    one, two, three = (files_of(tmp_path / run)["model.safetensors"] for run in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_checkpoints_are_pushed_with_the_batches_they_know(job: TinyJob, tmp_path: Path) -> None:
    job.publish(7, end=True)
    root = tmp_path / "models"
    train(job, "run", "--checkpoint-every", "3", "--push-root", f"models={root}")
    assert [pushed["trained_seq"] for pushed in job.service.checkpoints] == [3, 6]
    for pushed in job.service.checkpoints:
        (file,) = pushed["files"]
        content = (root / file["key"]).read_bytes()
        assert (file["role"], file["root"], file["sha256"]) == (
            "weights",
            "models",
            hashlib.sha256(content).hexdigest(),
        )
        load_weights(load_model(tmp_path / "run")[0], content)
    assert job.service.reports[0]["checkpoint_every"] == 3


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_stopped_trainer_goes_on_exactly(job: TinyJob, tmp_path: Path, stop: int) -> None:
    """Stopped after `stop` batches, saved at 0 or 4: the batches since are trained again, with the same result."""
    further = (
        "--save-every",
        "4",
        "--checkpoint-every",
        "3",
        "--push-root",
        f"models={tmp_path / 'models'}",
        "--resume",
    )
    job.publish(stop, end=False)
    with pytest.raises(LogStalled):
        train(job, "stopped", *further)
    job.publish(9 - stop, end=True)
    num_reports = len(job.service.reports)
    train(job, "stopped", *further)
    train(job, "whole", *further)
    first = job.service.reports[num_reports]
    assert (first["rewind"], first["trained_seq"]) == (True, 4 if stop >= 4 else 0), (
        "the service refuses to go back without it"
    )
    stopped, whole = files_of(tmp_path / "stopped"), files_of(tmp_path / "whole")
    assert stopped["model.safetensors"] == whole["model.safetensors"]
    assert json.loads(stopped["metrics.json"])["losses"] == json.loads(whole["metrics.json"])["losses"]
    keys = [(pushed["trained_seq"], pushed["files"][0]["key"]) for pushed in job.service.checkpoints]
    assert len(set(keys)) == 3


def test_a_run_that_is_refused_leaves_the_saved_state_alone(job: TinyJob, tmp_path: Path) -> None:
    """Started again without --resume: the service refuses to go back, and the state of the long run is still there."""
    job.publish(3, end=True)
    train(job, "run")
    state = (tmp_path / "run" / "state.pt").read_bytes()
    job.service.hooks.append(
        lambda request: problem(409, "went_back", "trained_seq must not fall") if request.method == "PUT" else None
    )
    with pytest.raises(ServiceError, match="went_back"):
        train(job, "run")
    assert (tmp_path / "run" / "state.pt").read_bytes() == state


def test_a_shard_that_changed_is_noticed_before_it_is_trained_on(job: TinyJob, tmp_path: Path) -> None:
    job.publish(3, end=True)
    tar = tmp_path / "pool" / "pool" / "000000.tar"
    content = bytearray(tar.read_bytes())
    for sample in job.samples:
        content[sample.members[1].offset] ^= 1  # the first letter of each caption
    tar.write_bytes(content)
    with pytest.raises(DigestMismatch, match="The shard changed after the dataset was registered"):
        train(job, "run")


def test_the_average_is_the_weights_themselves_without_ema(job: TinyJob) -> None:
    job.publish(3, end=True)
    run = train(job, "run", "--ema", "0")
    for slow, fast in zip(run.average.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(slow, fast)


@pytest.mark.parametrize(("log", "lines"), [("json", 3), ("text", 3), ("none", 0)])
def test_what_is_shown(job: TinyJob, capsys: pytest.CaptureFixture[str], log: str, lines: int) -> None:
    job.publish(3, end=True)
    train(job, "run", "--log", log)
    shown = capsys.readouterr().err
    assert shown.count("\n") == lines
    if log == "json":
        assert [json.loads(line)["step"] for line in shown.splitlines()] == [1, 2, 3]


def test_a_checkpoint_interval_needs_a_root(job: TinyJob, capsys: pytest.CaptureFixture[str]) -> None:
    for further in (["--checkpoint-every", "3"], ["--push-root", "models=/x"], ["--data-root", "models"]):
        with pytest.raises(SystemExit):
            train_tiny.arguments(job.arguments("run", *further))
    assert "name=path" in capsys.readouterr().err


def test_the_example_needs_nothing_but_torch_and_the_wheel() -> None:
    tree = ast.parse(Path(train_tiny.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - set(sys.stdlib_module_names) == {"torch", "superbatch"}
