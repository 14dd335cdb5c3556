"""A real `superbatch serve` for end-to-end tests: start, find its processes, kill them, read what it published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

LEASE_S = 6.0
DEADLINE_S = 90.0


def wait_for(claim: Callable[[], object], *, what: str, limit_s: float = DEADLINE_S) -> Any:
    """Poll until `claim()` is true and return it."""
    stop = time.monotonic() + limit_s
    while time.monotonic() < stop:
        if found := claim():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {limit_s} s: {what}")


class House:
    """One running service on a data directory."""

    def __init__(self, data_dir: Path, roots: Mapping[str, Path], settings: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(data_dir),
            "SUPERBATCH_DATA_DIR": str(data_dir),
            "SUPERBATCH_ROOTS": json.dumps({name: str(path) for name, path in roots.items()}),
            "SUPERBATCH_PORT": "0",
            "SUPERBATCH_LEASE_S": str(LEASE_S),
            "SUPERBATCH_HEARTBEAT_S": "0.5",
            **settings,
        }
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log = (data_dir / "serve.log").open("ab")
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "superbatch_server.service.serve"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = wait_for(self._healthy, what="service healthy")
        token = (data_dir / "token").read_text().strip()
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def _healthy(self) -> str | None:
        assert self.parent.poll() is None, (self.data_dir / "serve.log").read_text()
        try:
            url = str(json.loads((self.data_dir / "service.json").read_text())["url"])
            return url if httpx.get(f"{url}/healthz", timeout=1).is_success else None
        except (OSError, ValueError, httpx.HTTPError):
            return None

    def post(self, path: str, body: object, *, status: int = 202) -> dict[str, Any]:
        """POST and check the status."""
        response = self.http.post(path, json=body)
        assert response.status_code == status, response.text
        return dict(response.json())

    def get(self, path: str) -> dict[str, Any]:
        """GET, through restarts of the API."""

        def answer() -> httpx.Response | None:
            try:
                return self.http.get(path)
            except httpx.TransportError:
                return None

        response: httpx.Response = wait_for(answer, what=f"GET {path} answered")
        assert response.is_success, response.text
        return dict(response.json())

    def ready(self, path: str) -> str:
        """Wait until a data set or model is READY; return its id."""

        def state() -> dict[str, Any] | None:
            found = self.get(path)
            assert found["state"] != "INVALID", found
            return found if found["state"] == "READY" else None

        return str(wait_for(state, what=f"{path} READY")["id"])

    def wait_state(self, job: str, *states: str, limit_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until the job is in one of the states."""

        def state() -> dict[str, Any] | None:
            found = self.get(f"/v1/jobs/{job}")
            assert found["state"] != "FAILED" or "FAILED" in states, (found["error"], self.driver_logs())
            return found if found["state"] in states else None

        found: dict[str, Any] = wait_for(state, what=f"job {job} in {states}", limit_s=limit_s)
        return found

    def driver_logs(self) -> str:
        """Return the end of every driver's log, for a failure's message."""
        return "\n".join(path.read_text()[-3000:] for path in sorted((self.data_dir / "logs").glob("*.log")))

    def lists(self, job: str) -> dict[str, bytes]:
        """Return every published list of the job by name."""
        found: dict[str, bytes] = {}
        after = 0
        while True:
            manifest = self.get(f"/v1/jobs/{job}/manifest?after={after}")
            for segment in manifest["segments"]:
                assert segment["first_seq"] == after, "seq has no gap"
                response = self.http.get(f"/v1/jobs/{job}/{segment['list']}")
                assert response.is_success, response.text
                found[segment["list"].rsplit("/", 1)[1]] = response.content
                after += segment["num_batches"]
            if after >= manifest["next_seq"]:
                return found

    def processes(self, *, marker: str = "SUPERBATCH_") -> list[psutil.Process]:
        """Return every live process that this service started, by its data directory in the environment or command."""
        return [process for process in psutil.process_iter() if self._is_ours(process, marker)]

    def _is_ours(self, process: psutil.Process, marker: str) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False
        return str(self.data_dir) in environment.get("HOME", "") and any(
            name.startswith(marker) for name in environment
        )

    def driver(self) -> psutil.Process | None:
        """Return the newest running driver process."""
        found = [process for process in self.processes() if "superbatch_server.workers.driver" in _command(process)]
        return max(found, key=lambda process: process.create_time()) if found else None

    def child(self, name: str) -> psutil.Process:
        """Return the child of the parent with `name` in its command line."""
        children = psutil.Process(self.parent.pid).children()
        return next(process for process in children if name in _command(process))

    def stop(self) -> None:
        """End the service as a user would."""
        self.http.close()
        if self.parent.poll() is None:
            self.parent.send_signal(signal.SIGTERM)
            self.parent.wait(timeout=30)
        self.log.close()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


@contextmanager
def running_house(data_dir: Path, roots: Mapping[str, Path], **settings: str) -> Iterator[House]:
    """Run a service; stop it, and prove that nothing of it is left."""
    house = House(data_dir, roots, settings)
    try:
        yield house
    finally:
        house.stop()
    left = [(process.pid, _command(process)) for process in house.processes()]
    assert left == [], "processes left behind"
