"""What the converting process gives up before it opens a file, tried by doing what it may no longer do."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

from superbatch.checkpoints.convert import process_environment

GIVE_UP = """
import sys
from superbatch.checkpoints.convert_process import give_up_rights
is_offline = give_up_rights(cpu_s=1, source_bytes=0)
"""


def given_up(then: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has given up its rights."""
    return subprocess.run(
        [sys.executable, "-c", GIVE_UP + then, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_it_reaches_no_server_where_the_network_can_be_left() -> None:
    then = """
import socket
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
    print(is_offline, "connected")
except OSError:
    print(is_offline, "refused")
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = given_up(then, str(listener.getsockname()[1]))
    assert found.stdout.strip() in ("True refused", "False connected"), found.stderr


def test_it_may_not_compute_without_an_end() -> None:
    assert given_up("while True: pass").returncode == -signal.SIGXCPU


def test_it_may_not_fill_the_disk(tmp_path: Path) -> None:
    then = """
with open(sys.argv[1], "wb") as file:
    for _ in range(200):
        file.write(bytes(1 << 20))
"""
    found = given_up(then, str(tmp_path / "large"))
    assert found.returncode != 0
    assert "File too large" in found.stderr
    assert (tmp_path / "large").stat().st_size <= 64 << 20


def test_its_environment_holds_no_credentials() -> None:
    secrets = {"SUPERBATCH_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s", "HTTPS_PROXY": "p", "PATH": "/bin"}
    found = process_environment(secrets)
    assert found["PATH"] == "/bin"
    assert found.keys() & secrets.keys() == {"PATH"}
    assert found["CUDA_VISIBLE_DEVICES"] == ""
