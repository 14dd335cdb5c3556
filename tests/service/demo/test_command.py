"""The demo's first-day errors, and that it ends what it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from superbatch_server.service import demo
from superbatch_server.service.demo.processes import service


def test_without_the_sample_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.command(["--examples", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    error = capsys.readouterr().err
    assert "MANIFEST.json is missing" in error
    assert "--examples" in error


def test_a_failing_trainer_ends_the_demo_and_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = Path(__file__).parents[3] / "examples"
    work = tmp_path / "work"
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase $1 in *train_tiny.py) exit 9;; esac\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    assert demo.command(["--examples", str(examples), "--work", str(work), "--trainer-python", str(broken)]) == 1
    assert "the trainer ended with 9" in capsys.readouterr().err
    assert [process for process in psutil.process_iter(["cmdline"]) if _names(process, work)] == []


def _names(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in argument for argument in process.info["cmdline"] or [])


def test_the_service_stays_only_when_it_is_kept(tmp_path: Path) -> None:
    with service(tmp_path / "kept", {}, keep=True) as served:
        assert served.process.poll() is None
    assert served.process.poll() is None
    served.process.terminate()
    assert served.process.wait(30) == 0
