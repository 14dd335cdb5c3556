"""The command as a whole: help, where the service is, exit codes, errors as one sentence, commands of the server."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import httpx
import pytest

from superbatch.cli import main as cli
from superbatch.cli import plugins
from superbatch.cli.connection import Connection, find_connection
from superbatch.cli.errors import Exit, NoService
from superbatch.cli.main import build_parser, main, run
from tests.superbatch.cli.service import URL, FakeService, job, problem


def against(fake: FakeService, *arguments: str) -> int:
    """Run a command against a fake service."""
    environment = {"SUPERBATCH_URL": URL, "SUPERBATCH_TOKEN": "secret"}
    return run(arguments, environment=environment, connect=lambda _: fake.service())


def nothing(_: str) -> list[EntryPoint]:
    return []


def options(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["jobs", "list", *arguments])


def running(folder: Path, url: str = "http://127.0.0.1:8600") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "service.json").write_text(json.dumps({"url": url, "pid": 1}))
    (folder / "token").write_text("of-the-folder\n")
    return folder


def test_help_comes_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from superbatch.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'httpx', 'pyarrow', 'numpy', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    # Processor time, not wall time: a busy machine must not fail this.
    best_s = min(processor_s([sys.executable, "-c", code]) for _ in range(3))
    assert best_s < 0.3


def processor_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_lists_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*cli.CLIENT_COMMANDS, *plugins.SERVER_COMMANDS))
    assert all(f"{code:>3}  {code.meaning}" in text for code in Exit)


@pytest.mark.parametrize("command", sorted(cli.CLIENT_COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "usage: superbatch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("submit", "--datset", "x"),
            "superbatch submit: every flag must be known; got '--datset' (did you mean --dataset?)",
        ),
        (("submit", "a.json", "b.json"), "superbatch submit: every argument must be known; got 'b.json'"),
        (("submit", "-b", "many"), "superbatch submit: argument -b/--batch: invalid int value: 'many'"),
        (
            ("datasets", "add", "--wiat"),
            "superbatch datasets add: every flag must be known; got '--wiat' (did you mean --w",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(arguments, environment={})
    error = capsys.readouterr().err
    assert end.value.code == Exit.USAGE
    assert error.startswith(message)
    assert error.endswith("--help.\n")
    assert error.count("\n") == 1


def test_the_data_directory_names_the_running_service(tmp_path: Path) -> None:
    folder = running(tmp_path / "data")
    found = find_connection(options("--data-dir", str(folder)), {})
    assert found == Connection("http://127.0.0.1:8600", "of-the-folder")
    assert found == find_connection(options(), {"SUPERBATCH_DATA_DIR": str(folder)})


def test_flags_win_over_the_environment_and_it_over_the_directory(tmp_path: Path) -> None:
    folder = running(tmp_path / "data")
    (tmp_path / "mine").write_text("of-the-flag")
    environment = {
        "SUPERBATCH_URL": "http://10.0.0.1:1/",
        "SUPERBATCH_TOKEN": "of-the-shell",
        "SUPERBATCH_DATA_DIR": str(folder),
    }
    assert find_connection(options(), environment) == Connection("http://10.0.0.1:1", "of-the-shell")
    flags = options("--url", "http://10.0.0.2:2", "--token-file", str(tmp_path / "mine"))
    assert find_connection(flags, environment) == Connection("http://10.0.0.2:2", "of-the-flag")


def test_the_directory_s_token_never_goes_to_another_host(tmp_path: Path) -> None:
    folder = running(tmp_path / "data")
    with pytest.raises(NoService, match="a token is needed for http://elsewhere:8600"):
        find_connection(options("--data-dir", str(folder), "--url", "http://elsewhere:8600"), {})


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(NoService, match="--url must be like"):
        find_connection(options("--url", url), {})


def test_without_a_service_the_way_to_one_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["jobs", "list"], environment={"SUPERBATCH_DATA_DIR": str(tmp_path)}) == Exit.UNREACHABLE
    assert "superbatch serve" in capsys.readouterr().err


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(Connection("http://x", "secret"))


def test_a_refusal_is_one_sentence_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({"POST /v1/jobs/job_x:retry": (409, {"code": "wrong_state", "detail": "only a \x1b[2J job."})})
    assert against(fake, "retry", "job_x") == Exit.REFUSED
    assert capsys.readouterr().err == "superbatch: only a  [2J job. [wrong_state, HTTP 409]\n"


def test_a_silent_service_is_tried_again_and_then_named(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({"GET /v1/jobs": httpx.ConnectError("refused")})
    assert against(fake, "jobs", "list") == Exit.UNREACHABLE
    assert len(fake.requests) == 5
    assert "127.0.0.1:8600" in capsys.readouterr().err


def test_a_submission_that_is_repeated_is_the_same_submission() -> None:
    fake = FakeService({"POST /v1/jobs": [httpx.ReadError("cut"), problem_pair(503), (202, job())]})
    fake.service().post("/v1/jobs", {"name": "x"})
    keys = {request.headers["Idempotency-Key"] for request in fake.requests}
    assert len(fake.requests) == 3
    assert len(keys) == 1
    assert {request.headers["Authorization"] for request in fake.requests} == {"Bearer secret"}


def problem_pair(status: int) -> tuple[int, object]:
    return status, problem(status, "unavailable", "later").json()


def test_lists_are_read_to_their_last_page() -> None:
    def page(request: httpx.Request) -> object:
        number = int(request.url.params.get("page_token", "0"))
        return {"jobs": [job(name=f"j{number}")], "next_page_token": str(number + 1) if number < 2 else None}

    fake = FakeService({"GET /v1/jobs": page})
    assert [item.text("name") for item in fake.service().items("/v1/jobs", "jobs")] == ["j0", "j1", "j2"]


def test_something_else_on_the_port_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({"GET /v1/jobs": [["not", "an", "object"]]})
    assert against(fake, "jobs", "list") == Exit.UNREACHABLE
    assert "another program" in capsys.readouterr().err


def test_a_server_command_is_run_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    def installed(name: str) -> list[EntryPoint]:
        return [EntryPoint(name, "tests.superbatch.cli.test_main:serve", plugins.GROUP)]

    assert run(["serve", "--port", "0"], environment={}, installed=installed) == 7
    assert capsys.readouterr().out == "['--port', '0']\n"


def serve(arguments: list[str]) -> int:
    print(arguments)
    return 7


@pytest.mark.parametrize("command", sorted(plugins.SERVER_COMMANDS))
def test_without_the_server_its_commands_say_what_to_install(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([command], environment={}, installed=nothing) == Exit.USAGE
    assert "install superbatch-server" in capsys.readouterr().err


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["surve"], environment={}, installed=nothing) == Exit.USAGE
    assert "'surve' is no command" in capsys.readouterr().err
