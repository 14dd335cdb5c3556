"""Conversion in a process of its own: what it makes, and what it refuses without running any of it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from superbatch.checkpoints import learner_weights
from superbatch.checkpoints.convert import ConversionRefused, Limits, convert_checkpoint

PATIENT = Limits(wall_s=120)


def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch '{path}'"

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (self.command,))


def refused(source: Path, folder: Path, *, limits: Limits = PATIENT) -> str:
    """Convert, which must be refused and leave nothing behind; return what is said."""
    before = sorted(folder.iterdir())
    with pytest.raises(ConversionRefused) as raised:
        convert_checkpoint(source, folder / "out.safetensors", limits=limits)
    assert sorted(folder.iterdir()) == before
    return str(raised.value)


def test_an_open_clip_checkpoint_becomes_the_bytes_that_the_model_itself_would_give(tmp_path: Path) -> None:
    learner = model()
    optimizer = torch.optim.AdamW(learner.parameters())
    learner(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": 1,
        "name": "run",
        "state_dict": {f"module.{name}": tensor for name, tensor in learner.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(saved, tmp_path / "epoch_1.pt")
    out = tmp_path / "made" / "learner.safetensors"
    made = convert_checkpoint(tmp_path / "epoch_1.pt", out, job="job_1", limits=PATIENT)
    assert out.read_bytes() == learner_weights(learner, job="job_1")
    assert (made.num_tensors, made.dtypes, made.num_bytes) == (4, ("float32",), out.stat().st_size)
    assert made.left_out == dict.fromkeys(("epoch", "name", "optimizer"), "not the model")
    assert [path.name for path in out.parent.iterdir()] == [out.name], "nothing else is left"


@pytest.mark.parametrize("form", ["zip", "bare"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path: Path, form: str) -> None:
    source, made = tmp_path / "bad.pt", tmp_path / "made-by-the-pickle"
    if form == "zip":
        torch.save({"state_dict": model().state_dict(), "extra": Malicious(made)}, source)
    else:
        source.write_bytes(pickle.dumps(Malicious(made), protocol=2))
    assert "Nothing of it was run" in (said := refused(source, tmp_path))
    if form == "zip":
        assert "posix.system" in said
    assert not made.exists()
    pickle.loads(pickle.dumps(Malicious(made)))
    assert made.exists(), "it would have"


def test_a_file_that_needs_more_memory_than_allowed_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(8 << 20)}, tmp_path / "large.pt", _use_new_zipfile_serialization=False)
    said = refused(tmp_path / "large.pt", tmp_path, limits=Limits(memory_bytes=4 << 20, wall_s=120))
    assert "memory" in said


def test_a_reader_without_an_end_is_ended(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "a.pt")
    assert "within 0.01 s" in refused(tmp_path / "a.pt", tmp_path, limits=Limits(wall_s=0.01))


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    assert "a file must be a whole checkpoint" in refused(tmp_path / "a.pt", tmp_path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        convert_checkpoint(tmp_path / "none.pt", tmp_path / "out.safetensors")
