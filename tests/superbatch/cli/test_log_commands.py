"""export-tars, serve-tars and export-npy, from the command line to the files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superbatch.cli.main import run
from superbatch.conformance.http_server import RunningService
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.webdataset.layout import tar_name
from tests.superbatch.webdataset.conftest import TOKEN, job, running, service

__all__ = ["job", "running", "service"]

Superbatch = Callable[..., int]


@pytest.fixture
def superbatch(running: RunningService) -> Superbatch:
    """Runs a command against the sample service."""
    environment = {"SUPERBATCH_URL": running.url, "SUPERBATCH_TOKEN": TOKEN}
    return lambda *arguments: run([str(argument) for argument in arguments], environment=environment)


def test_export_tars_writes_them_and_says_how_to_train(
    superbatch: Superbatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert superbatch("export-tars", JOB, tmp_path, "--world-size", 2, "--from-seq", 4, "--to-seq", 6) == 0

    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [tar_name(index) for index in range(8, 12)]
    assert (
        f"--train-data '{tmp_path}/{{00000008..00000011}}.tar' --dataset-type webdataset --train-num-samples 24 "
        "--batch-size 6\n"
    ) in capsys.readouterr().out


def test_export_tars_of_another_layout_is_refused(
    superbatch: Superbatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert superbatch("export-tars", JOB, tmp_path, "--world-size", 2, "--to-seq", 1) == 0
    assert superbatch("export-tars", JOB, tmp_path, "--world-size", 3, "--to-seq", 1) == 2
    assert "world_size 2 instead of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world-size", "5"], "b = 12, 5 * 1 = 5"),
        (["--world-size", "2", "--from-seq", "24"], "the range must hold a batch"),
        (["--world-size", "2", "--root", "pool"], "NAME=ADDRESS"),
        (["--world-size", "2", "--prefix", "/nowhere/at/all", "--to-seq", "1", "--no-wait"], "/nowhere/at/all"),
    ],
)
def test_bad_input_is_one_line(
    superbatch: Superbatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert superbatch("export-tars", JOB, tmp_path / "tars", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_export_npy_writes_the_set_of_a_range_and_says_that_it_is_one(
    superbatch: Superbatch, job: SampleJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert superbatch("export-npy", JOB, tmp_path / "subset.npy", "--from-seq", 3, "--to-seq", 9) == 0

    wanted = {uid for seq in range(3, 9) for uid in job.batches[seq]}
    found = np.load(tmp_path / "subset.npy")
    assert found.dtype == np.dtype("u8,u8")
    assert {f"{first:016x}{last:016x}" for first, last in found.tolist()} == {uid.hex() for uid in wanted}
    assert (
        f"{len(wanted)} uids of 72 chosen rows. A set: batches, order and repetitions are lost."
        in capsys.readouterr().out
    )
    assert [path.name for path in tmp_path.iterdir()] == ["subset.npy"]


def test_serve_tars_prints_an_address_that_curl_reads(
    superbatch: Superbatch, running: RunningService, tmp_path: Path
) -> None:
    assert superbatch("export-tars", JOB, tmp_path, "--world-size", 2, "--to-seq", 3) == 0
    environment = {"SUPERBATCH_URL": running.url, "SUPERBATCH_TOKEN": TOKEN, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "superbatch.cli.main", "serve-tars", JOB, "--world-size", "2", "--port", "0"]
    with subprocess.Popen(
        [*command, "--num-batches", "24"], env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        try:
            pipe = re.search(r"--train-data 'pipe:(.*)' --dataset-type webdataset", line)
            assert pipe is not None
            assert "{00000000..00000047}.tar" in pipe[1]
            fetch = pipe[1].replace("{00000000..00000047}", "00000005")
            found = subprocess.run(["sh", "-c", fetch], check=True, capture_output=True, timeout=60)
        finally:
            server.terminate()
    assert found.stdout == (tmp_path / tar_name(5)).read_bytes()


def test_the_commands_say_what_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["export-npy", "--help"], environment={})
    assert "It is a SET" in capsys.readouterr().out
