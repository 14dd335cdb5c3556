"""The services of docker-compose.yml as processes of this machine: their own commands, variables and health checks.

What a container engine would give is stood in for: folders for volumes and secrets, 127.0.0.1 and a free port for each
address, one process group for each container. Read-only file systems, capabilities and limits are not tried here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.deploy.compose import Places, command_of, environment_of, health_of, load
from tests.service.postgres import binaries
from tests.service.runners.cluster import free_port

_LIMIT_S = 150.0
_MARK = "TEST_CONTAINER"
_STORE_BYTES = 80 << 20


class ContainerWorld:
    """Starts services in the order of their dependencies, and asks them how they are."""

    def __init__(self, datasets: Path, models: Path, *, variables: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbc", dir="/tmp"))  # short, for Ray's sockets
        self.services: dict[str, Any] = load(variables)["services"]
        self.ports = {name: free_port() for name in ("api", "postgres", "gcs", "dashboard")}
        self._agents = {name: free_port() for name in ("ray-head", "ray-worker")}
        for name in ("data", "shared", "secrets", "postgres", "ray"):
            (self.folder / name).mkdir()
        for name in ("postgres_password", "ray_token"):
            (self.folder / "secrets" / name).write_text(secrets.token_urlsafe(24))
        self._folders = {
            "/data": self.folder / "data",
            "/shared": self.folder / "shared",
            "/run/secrets": self.folder / "secrets",
            "/datasets": datasets,
            "/models": models,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Address of the API, as it is published."""
        return f"http://127.0.0.1:{self.ports['api']}"

    def start(self, name: str) -> None:
        """Start a service once all that it depends on is healthy, as `docker compose up` does."""
        for needed in self.services[name].get("depends_on", {}):
            self.wait_healthy(needed)
        command, environment = self._command(name), self._environment(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def is_healthy(self, name: str) -> bool:
        """Run the service's own health check."""
        timeout_s = 4 * float(self.services[name]["healthcheck"]["timeout"].rstrip("s"))
        command = health_of(self.services[name], self._places(name))
        if name == "postgres":
            command[0] = str(_postgres() / command[0])
            command = [part.replace("--port=5432", f"--port={self.ports['postgres']}") for part in command]
        done = subprocess.run(
            command, check=False, env=self._environment(name), cwd="/", capture_output=True, timeout=timeout_s
        )
        return done.returncode == 0

    def wait_healthy(self, name: str, *, healthy: bool = True) -> None:
        """Ask for a service's health until it is as expected."""
        stop = time.monotonic() + _LIMIT_S
        while time.monotonic() < stop:
            if self.is_healthy(name) is healthy:
                return
            assert not healthy or self._processes[name].poll() is None, self.log(name)
            time.sleep(0.2)
        raise AssertionError(f"{name} did not become {'healthy' if healthy else 'unhealthy'}: {self.log(name)}")

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop a service as `docker compose stop` does; kill whatever is left of its container."""
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            code = process.wait(timeout=40)
        finally:
            for left in self.processes(name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
        return code

    def log(self, name: str) -> str:
        """Return the end of what a service wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """Stop everything."""
        for name in list(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(name, signal.SIGKILL if name.startswith("ray") else signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _places(self, name: str) -> Places:
        addresses = {
            "api:8600": self.ports["api"],
            "postgres:5432": self.ports["postgres"],
            "ray-head:6379": self.ports["gcs"],
            "ray-head:8265": self.ports["dashboard"],
            "127.0.0.1:52365": self._agents.get(name, 0),
        }
        return Places(self._folders, addresses)

    def _environment(self, name: str) -> dict[str, str]:
        found = environment_of(self.services[name], self._places(name))
        found |= {"HOME": str(self.folder / "data"), _MARK: f"{self.folder}:{name}"}
        if name == "api":
            found["SUPERBATCH_PORT"] = str(self.ports["api"])  # in its container it is the default
        return found

    def _command(self, name: str) -> list[str]:
        if name == "postgres":
            return self._postgres_command()
        command = command_of(self.services[name], self._places(name))
        if not name.startswith("ray"):
            return command
        moved = {"--port=6379": f"--port={self.ports['gcs']}"}
        moved["--dashboard-port=8265"] = f"--dashboard-port={self.ports['dashboard']}"
        command = [moved.get(part, part) for part in command]
        command = [part for part in command if not part.startswith("--object-store-memory")]
        # Two nodes share this machine's ports and /tmp, which containers do not.
        ports = {name: free_port() for name in ("node-manager", "object-manager", "metrics-export")}
        command += [f"--{kind}-port={port}" for kind, port in ports.items()]
        command += [f"--dashboard-agent-listen-port={self._agents[name]}", f"--object-store-memory={_STORE_BYTES}"]
        return [*command, "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder / 'ray'}"]

    def _postgres_command(self) -> list[str]:
        """Return the command of the image after its own entry point has made the database, and do what that does."""
        service, data = self.services["postgres"], self.folder / "postgres" / "data"
        environment = self._environment("postgres")
        prefix = _as_other(self.folder / "postgres")
        password = self.folder / "postgres" / "password"  # the entry point reads the secret as root
        shutil.copy(environment["POSTGRES_PASSWORD_FILE"], password)
        password.chmod(0o644)
        made = ["-D", str(data), "-U", environment["POSTGRES_USER"], f"--pwfile={password}", "--no-sync"]
        arguments = environment["POSTGRES_INITDB_ARGS"].split()
        subprocess.run([*prefix, str(_postgres() / "initdb"), *made, *arguments], check=True, capture_output=True)
        password.unlink()
        program, *options = service["command"]
        own = ["-D", str(data), "-c", f"port={self.ports['postgres']}", "-c", "listen_addresses=127.0.0.1"]
        own += ["-c", f"unix_socket_directories={self.folder / 'postgres'}", "-c", "fsync=off"]
        subprocess.run(
            [*prefix, str(_postgres() / program), "--single", "-D", str(data), "-j", "postgres"],
            check=True,
            capture_output=True,
            input=f"CREATE DATABASE {environment['POSTGRES_DB']};\n\n".encode(),
        )
        return [*prefix, str(_postgres() / program), *options, *own]

    def processes(self, name: str) -> Iterator[psutil.Process]:
        """Yield the processes of a service's container."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == f"{self.folder}:{name}":
                    yield process


def _postgres() -> Path:
    found = binaries()
    assert found is not None
    return found


def _as_other(folder: Path) -> list[str]:
    """Return how a program is run by somebody who is not root, who then owns the folder."""
    if os.geteuid() != 0:
        return []
    folder.parent.chmod(0o755)
    shutil.chown(folder, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
