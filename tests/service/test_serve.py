"""`superbatch serve`: one parent, two children that come back, and nothing that stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import create_engine, write
from superbatch_server.service.deployment import data_dir_lock, make_token, read_token
from superbatch_server.service.serve import command
from tests.service.catalog.builders import add_dataset, job, submit
from tests.service.running import FAKE_DRIVER, wait_until
from tests.small_disk import fill, small_disk


@contextlib.contextmanager
def serving(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the service with a fake driver until the block is left."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SUPERBATCH_")}
    environment["SUPERBATCH_DRIVER_COMMAND"] = json.dumps([sys.executable, FAKE_DRIVER, "work"])
    environment["SUPERBATCH_POLL_S"] = "0.05"
    process = subprocess.Popen(
        [sys.executable, "-m", "superbatch_server.service.serve", "--data-dir", str(data_dir), "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def address(data_dir: Path) -> str:
    """Return the service's address once it is announced."""
    wait_until((data_dir / "service.json").exists, "the service is announced")
    return str(json.loads((data_dir / "service.json").read_text())["url"])


def children_of(pid: int, module: str = "") -> list[int]:
    """Return the child processes that run a module."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and f"PPid:\t{pid}\n" in (folder / "status").read_text():
                arguments = (folder / "cmdline").read_bytes().decode()
                if arguments and module in arguments:
                    found.append(int(folder.name))
    return found


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def test_both_children_come_back_at_the_same_address_and_nothing_stays(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir) as parent, httpx.Client(trust_env=False, timeout=30) as client:
        url = address(data_dir)
        assert client.get(f"{url}/v1/health").status_code == 200
        assert [mode(data_dir), mode(data_dir / "token"), mode(data_dir / "service.json")] == [0o700, 0o600, 0o600]
        client.headers["Authorization"] = f"Bearer {read_token(data_dir)}"
        assert client.get(f"{url}/v1/jobs").status_code == 200

        [api] = children_of(parent.pid, "api_process")
        os.kill(api, signal.SIGKILL)
        wait_until(lambda: children_of(parent.pid, "api_process") not in ([], [api]), "the API comes back")
        with httpx.Client(trust_env=False, timeout=30) as anew:
            assert anew.get(f"{url}/v1/health").status_code == 200, "a request during the restart waits"

        [supervisor] = wait_until(lambda: children_of(parent.pid, "supervisor"), "the supervisor runs")
        os.kill(supervisor, signal.SIGKILL)
        engine = create_engine(f"sqlite:///{data_dir}/catalog.sqlite")
        with write(engine) as connection:
            add_dataset(connection)
        job_id = submit(engine)
        wait_until(lambda: job(engine, job_id)["state"] == JobState.SUCCEEDED, "the new supervisor runs a job")
        engine.dispose()

        children = children_of(parent.pid)
        assert len(children) == 2
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=30) == 0
    assert not (data_dir / "service.json").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_killed_parent_takes_its_children_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as parent:
        address(tmp_path)
        children = wait_until(lambda: len(found := children_of(parent.pid)) == 2 and found, "both children run")
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the children end", limit_s=15)


def test_a_second_service_on_the_same_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with data_dir_lock(tmp_path):
        (tmp_path / "service.json").write_text('{"url": "http://127.0.0.1:1", "pid": 12}')
        assert command(["--data-dir", str(tmp_path), "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert "is served already at http://127.0.0.1:1 by process 12" in message
    assert "Stop that one, or name another directory" in message


def test_a_port_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command(["--data-dir", str(tmp_path), "--port", str(port)]) == 2
    assert f"listen on 127.0.0.1:{port}; Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "pool"], "a root must be NAME=PATH"),
        (["--root", "../x=/tmp"], "roots"),
        (["--port", "70000"], "port"),
        (["--database-url", "catalog.sqlite"], "must be a SQLAlchemy URL"),
    ],
)
def test_a_wrong_option_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert command(["--data-dir", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", size="1m") as disk:
        (disk / "data").mkdir()
        fill(disk)
        assert command(["--data-dir", str(disk / "data"), "--port", "0"]) == 2
        assert not [path for path in (disk / "data").iterdir() if path.name != "serve.lock"], "and nothing is left"
    message = capsys.readouterr().err
    assert "must be writable and have room; got 'No space left on device'" in message
    assert message.count("\n") == 1


def test_a_file_in_place_of_the_data_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/data"):
        assert command(["--data-dir", str(place), "--port", "0"]) == 2
        assert "the data directory must be writable" in capsys.readouterr().err


def test_the_token_is_made_once(tmp_path: Path) -> None:
    make_token(tmp_path)
    token = read_token(tmp_path)
    make_token(tmp_path)
    assert read_token(tmp_path) == token
    assert len(token) >= 40
