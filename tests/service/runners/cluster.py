"""A Ray cluster of two nodes on this machine, each with its own ports and folder, token authentication on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

TOKEN = "token-of-the-ray-cluster-of-the-tests"
NODE_CPUS = 5
_STORE_BYTES = 80 << 20
_START_LIMIT_S = 120.0
_MARK = "TEST_RAY_NODE"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """Head and worker; `address` is the dashboard's URL."""

    folder: Path
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        """URL of the Jobs API."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self) -> None:
        """Start the head with its dashboard."""
        self._start("head", "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard_port}")

    def start_worker(self) -> None:
        """Add a node that only works."""
        self._start("worker", f"--address=127.0.0.1:{self.port}")

    def kill(self, node: str) -> None:
        """Kill every process of a node at once, as a power cut would."""
        for process in self.processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def processes(self, node: str) -> list[psutil.Process]:
        """Return the live processes of a node, the workers and drivers on it too."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == self._mark(node):
                    found.append(process)
        return found

    def drivers(self) -> list[psutil.Process]:
        """Return the drivers that run on the cluster."""
        found = [*self.processes("head"), *self.processes("worker")]
        return [process for process in found if _runs_a_driver(process)]

    def stop(self) -> None:
        """End both nodes."""
        self.kill("worker")
        self.kill("head")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mark(self, node: str) -> str:
        return f"{self.folder}:{node}"

    def _start(self, node: str, *arguments: str) -> None:
        ports = {
            name: free_port() for name in ("node-manager", "object-manager", "dashboard-agent-listen", "metrics-export")
        }
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, "--node-ip-address=127.0.0.1"]
        command += [f"--num-cpus={NODE_CPUS}", "--num-gpus=0", f"--object-store-memory={_STORE_BYTES}"]
        command += [f"--{name}-port={port}" for name, port in ports.items()]
        command += ["--disable-usage-stats", f"--temp-dir={self.folder}"]
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            _MARK: self._mark(node),
        }
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=_START_LIMIT_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with httpx.Client(base_url=self.address, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            stop = time.monotonic() + _START_LIMIT_S
            while time.monotonic() < stop:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/api/jobs/").is_success:
                        return
                time.sleep(0.1)
        raise AssertionError(f"the {node} does not answer")


def _runs_a_driver(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        return "superbatch_server.workers.driver" in command and "python" in Path(command[0]).name
    return False


@contextlib.contextmanager
def running_cluster(*, worker: bool = True) -> Iterator[Cluster]:
    """Run a cluster; its folder is a short one, as Ray's sockets need it."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="sbr", dir="/tmp")))
    try:
        cluster.start_head()
        if worker:
            cluster.start_worker()
        yield cluster
    finally:
        cluster.stop()
