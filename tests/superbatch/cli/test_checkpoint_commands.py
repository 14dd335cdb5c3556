"""`superbatch convert` and `superbatch watch-checkpoints`, against the real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from superbatch.checkpoints import learner_weights
from superbatch.cli.client import HttpService
from superbatch.cli.connection import Connection
from superbatch.cli.errors import Exit
from superbatch.cli.main import run
from tests.service.api.world import TOKEN, URL, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def superbatch(world: World, *arguments: str | Path) -> int:
    """Run a command with a connection that ends in the API."""

    def forward(request: httpx.Request) -> httpx.Response:
        answer = world.client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, content=answer.content)

    def connect(connection: Connection) -> HttpService:
        return HttpService(connection, transport=httpx.MockTransport(forward), sleep=lambda _: None)

    environment = {"SUPERBATCH_URL": URL, "SUPERBATCH_TOKEN": TOKEN}
    return run([str(argument) for argument in arguments], environment=environment, connect=connect)


def test_convert_says_what_it_kept_and_what_it_left_out(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"w": torch.ones(2, dtype=torch.bfloat16), "b": torch.zeros(1)}
    torch.save({"net": {f"clip.{name}": t for name, t in state.items()}, "ema": state, "step": 4}, tmp_path / "a.pt")
    out = tmp_path / "a.safetensors"
    assert superbatch(world, "convert", tmp_path / "a.pt", out, "--key", "net", "--prefix", "clip.") == Exit.OK
    printed = capsys.readouterr().out
    assert out.read_bytes() == learner_weights(state)
    assert "kept 2 tensors, bfloat16, float32, " in printed
    assert "left out: ema, step (not the model)" in printed
    assert superbatch(world, "convert", tmp_path / "none.pt", out) == Exit.USAGE
    assert "No such file" in capsys.readouterr().err
    assert superbatch(world, "convert", tmp_path / "a.pt", out, "--cpu-s", "0") == Exit.USAGE


def test_a_watched_folder_is_pushed_once_and_bad_files_are_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = world.submit(world.pushed_spec())
    world.publish(job, 4)
    folder = tmp_path / "run"
    folder.mkdir()
    learner = torch.nn.Linear(3, 2)
    torch.save({"epoch": 2, "state_dict": learner.state_dict(), "optimizer": {}}, folder / "epoch_2.pt")
    (folder / "latest.pt").write_bytes(b"no number")
    watching = ("watch-checkpoints", folder, "--job", job, "--batches-per-epoch", "2", "--settle-s", "0", "--once")
    assert superbatch(world, *watching) == Exit.ENDED_BADLY
    printed = capsys.readouterr().out
    assert "latest.pt: REFUSED [invalid_input] a checkpoint's name must end with a number" in printed
    assert "epoch_2.pt: pushed as checkpoint_" in printed
    found = world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
    assert [(each["trained_seq"], each["state"], each["files"][0]["root"]) for each in found] == [
        (4, "RECEIVED", "uploads")
    ]
    content = (world.settings.uploads_dir / found[0]["files"][0]["key"]).read_bytes()
    assert content == learner_weights(learner, job=job)
    assert superbatch(world, *watching) == Exit.OK, "nothing is left to do"
    assert world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"] == found
    torch.save(learner.state_dict(), folder / "epoch_1.pt")
    assert superbatch(world, *watching, "--root", "pool") == Exit.OK
    [placed] = (world.data / "checkpoints" / job).iterdir()
    assert placed.read_bytes() == content
    newest = world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"][0]
    assert (newest["trained_seq"], newest["files"][0]["root"]) == (2, "pool")
    lines = (folder / f".superbatch-{job}.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in lines) == ["epoch_1.pt", "epoch_2.pt", "latest.pt"]


def test_a_watch_ends_with_its_job_and_refuses_what_cannot_be_watched(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = world.submit(world.pushed_spec())
    world.post(f"/v1/jobs/{job}:cancel", {}, status=200)
    assert superbatch(world, "watch-checkpoints", tmp_path, "--job", job) == Exit.OK
    assert "CANCELLED: no further checkpoint is needed" in capsys.readouterr().out
    assert superbatch(world, "watch-checkpoints", tmp_path / "none", "--job", job) == Exit.USAGE
    assert superbatch(world, "watch-checkpoints", tmp_path, "--job", job, "--batches-per-epoch", "0") == Exit.USAGE
    assert superbatch(world, "watch-checkpoints", tmp_path, "--job", "job_0123456789abcdef") == Exit.REFUSED
    assert superbatch(world, "watch-checkpoints", tmp_path, "--job", job, "--root", "nowhere") == Exit.USAGE
