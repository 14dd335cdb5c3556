"""The kit with real processes: the command line, a kill that leaves nothing behind, and a command that hangs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from superbatch.cli.main import run
from superbatch.conformance.cases import cases_of
from superbatch.conformance.processes import ProcessLauncher
from superbatch.conformance.records import Ended, Leg
from superbatch.conformance.report import Report, html_report
from superbatch.conformance.run import run_cases
from tests.superbatch.conformance.loaders import script_of

REFERENCE = (sys.executable, "-m", "superbatch.conformance.reference_loader")
REPOSITORY = Path(__file__).parents[3]
Start = Callable[..., Ended]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a Python program as a loader of two ranks."""

    def started(
        program: str, *, template: str = "none", timeout_s: float = 60.0, grace_s: float = 0.5, **options: object
    ) -> Ended:
        launcher = ProcessLauncher((sys.executable, "-c", program), template, timeout_s, grace_s)
        trace = tmp_path / "trace"
        trace.mkdir()
        variables = {"SUPERBATCH_TRACE": str(trace)}
        wanted = options.get("is_kill_wanted", lambda: False)
        return launcher.run(Leg(2, 0, 1), variables, tmp_path, is_kill_wanted=wanted)  # type: ignore[arg-type]

    return started


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_every_rank_learns_who_it_is(start: Start, tmp_path: Path) -> None:
    program = """
import os
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
open(os.environ["SUPERBATCH_TRACE"] + "/" + os.environ["RANK"], "w").write(" ".join(os.environ[n] for n in names))
"""
    assert start(program).is_success
    assert [(tmp_path / "trace" / rank).read_text() for rank in "01"] == ["0 2 127.0.0.1", "1 2 127.0.0.1"]


def test_a_failure_is_reported_with_its_output(start: Start) -> None:
    ended = start(
        "import os\nif os.environ['RANK'] == '1': raise SystemExit('the disk is full')\nimport time; time.sleep(60)"
    )
    assert not ended.is_success
    assert ended.statuses[1] == 1
    assert ended.output == "the disk is full"
    assert not any((ended.was_killed, ended.has_timed_out))


def test_a_command_that_hangs_is_given_up(start: Start) -> None:
    ended = start("import time; time.sleep(600)", timeout_s=1.0)
    assert ended.has_timed_out
    assert ended.statuses == (-9, -9)


def test_a_kill_reaches_processes_in_sessions_of_their_own(start: Start, tmp_path: Path) -> None:
    """torchrun starts its ranks so: killing its group alone would leave them training."""
    program = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
path = os.environ["SUPERBATCH_TRACE"] + "/child-" + os.environ["RANK"]
open(path + ".part", "w").write(str(child.pid))
os.rename(path + ".part", path)
time.sleep(600)
"""
    children = [tmp_path / "trace" / f"child-{rank}" for rank in range(2)]
    ended = start(program, is_kill_wanted=lambda: all(child.exists() for child in children))
    assert ended.was_killed
    limit_s = time.monotonic() + 20
    while any(is_alive(int(child.read_text())) for child in children):
        assert time.monotonic() < limit_s
        time.sleep(0.01)


def test_a_launcher_of_one_s_own_stands_before_the_command(start: Start, tmp_path: Path) -> None:
    program = "import os; open(os.environ['SUPERBATCH_TRACE'] + '/said', 'w').write(os.environ['SIZE'])"
    ended = start(program, template="env SIZE={world_size}")
    assert ended.statuses == (0,)
    assert (tmp_path / "trace" / "said").read_text() == "2"


def verify(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run(["verify-loader", *words], environment=os.environ)
    return code, capsys.readouterr().out


def test_the_reference_loader_passes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    sizes = ("--world", "1,2", "--workers", "0,1", "--steps", "12", "--cases", "quick")
    code, said = verify(*sizes, "--report", str(report), "--", *REFERENCE, capsys=capsys)
    assert "2 of 2 cases passed (4 starts); joint batches intact: 24 of 24" in said
    assert code == 0
    found = json.loads(report.read_text())
    assert (found["has_passed"], found["batches_intact"], found["batches_wanted"]) == (True, 24, 24)
    assert found["cases"][0]["exit_statuses"] == [[-9, -9], [0]]
    assert all(all(case["checks"].values()) for case in found["cases"])


def test_a_wrong_loader_fails_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    script = script_of("double_sharding", tmp_path)
    options = ("--world", "2", "--workers", "0", "--accumulation", "1", "--steps", "6", "--cases", "quick")
    page = tmp_path / "report.html"
    words = (*options, "--keep", str(tmp_path / "kept"), "--report", str(page), "--", sys.executable, str(script))
    code, said = verify(*words, capsys=capsys)
    assert code == 1
    assert "Usual cause: double sharding" in said
    assert "0 of 2 cases passed" in said
    assert (tmp_path / "kept" / "case-01" / "start-1" / "trace" / "rank-0.jsonl").exists()
    assert "failed</h1>" in page.read_text()
    assert "double sharding" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a loader must be named"),
        (["--report", "x.pdf", "--", "true"], "--report must end in .html, .json or .txt"),
        (["--world", "1,1", "--", "true"], "must be different numbers from 1 on"),
        (["--workers", "-1", "--", "true"], "must be different numbers from 0 on"),
        (["--steps", "3", "--cases", "quick", "--", "true"], "at least 6 batches"),
        (["--cases", "quick", "--", "/no/such/program"], "must be one that can be started"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run(["verify-loader", *words], environment=os.environ)
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launcher", ["none", "torchrun"])
def test_the_reference_loader_passes_every_case(tmp_path: Path, launcher: str) -> None:
    cases = cases_of("full", world_sizes=(1, 2, 4), workers=(0, 2), accumulations=(1, 2), num_steps=24)
    results = run_cases(cases, ProcessLauncher(REFERENCE, launcher), tmp_path)
    report = Report(REFERENCE, launcher, results)
    print(report.summary())
    assert report.has_passed, html_report(report)
    assert len(results) == 25
    assert sum(result.intact for result in results) == 21 * 24
