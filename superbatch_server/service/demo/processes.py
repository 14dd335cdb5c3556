"""The demo's child processes: the service and the trainers. Every one is ended, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from superbatch_server.service.demo.api import DemoFailed


@dataclass(frozen=True)
class Served:
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def service(
    data_dir: Path, roots: Mapping[str, Path], *, keep: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Run `superbatch serve` on its embedded defaults; end it with the block, unless it is kept and all went well.

    `settings` are further SUPERBATCH_* variables.
    """
    named = [argument for name, path in roots.items() for argument in ("--root", f"{name}={path}")]
    command = [sys.executable, "-m", "superbatch_server.service.serve", "--data-dir", str(data_dir), "--port", "0"]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "serve.log").open("wb") as log:
        child = subprocess.Popen(
            [*command, *named],
            env={**os.environ, **(settings or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Served(_wait_healthy(child, data_dir), child)
    except BaseException:
        _stop(child)
        raise
    if not keep:
        _stop(child)


def _wait_healthy(child: subprocess.Popen[bytes], data_dir: Path, *, limit_s: float = 30) -> str:
    stop = time.monotonic() + limit_s
    while time.monotonic() < stop and child.poll() is None:
        try:
            url = str(json.loads((data_dir / "service.json").read_text())["url"])
            if httpx.get(f"{url}/healthz", timeout=1).is_success:
                return url
        except (OSError, ValueError, httpx.HTTPError):
            pass
        time.sleep(0.05)
    raise DemoFailed(f"the service did not become healthy:\n{(data_dir / 'serve.log').read_text()[-2000:]}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def running(command: Sequence[str], *, log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with its output in a file; end it when the block is left."""
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")}
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def run_json(command: Sequence[str], *, log_path: Path) -> dict[str, object]:
    """Run a command that prints a JSON object as its last line, and return the object."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    log_path.write_text(done.stderr + done.stdout)
    if done.returncode:
        raise DemoFailed(f"{' '.join(command)} ended with {done.returncode}; see {log_path}:\n{done.stderr[-1500:]}")
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
