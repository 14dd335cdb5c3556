"""`superbatch serve`: a small parent that holds the socket and keeps its two children, API and supervisor, running.

`--only` runs one of them: in containers each has its own, on one catalog.

It imports neither the web framework nor the catalog, so that it starts at once and has little to die of. A child that
dies is started again after 0.2 s, twice that at the next time, up to 5 s. When the parent is killed its children end.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from superbatch_server.service.access.login_codes import new_login_code
from superbatch_server.service.deployment import CannotServe, announced, data_dir_lock, listen, make_token, usable
from superbatch_server.service.runners.processes import kill, orphaned_processes
from superbatch_server.service.settings import PREFIX, Settings, read_settings

_POLL_S = 0.05
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0
_STEADY_S = 10.0
_START_LIMIT_S = 60.0
_START_TRIES = 3
_GOODBYE_S = 5.0


@dataclass
class Child:
    """One of the two processes, and when it may be started again."""

    module: str
    arguments: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    wait_s: float = _FIRST_WAIT_S
    start_at: float = 0.0
    starts: int = 0

    def keep(self, environment: Mapping[str, str]) -> None:
        """Start it when it does not run and its time has come; note when it has ended."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            print(f"{self.module} ended with {self.process.returncode}; starting it again", file=sys.stderr, flush=True)
            if now - self.start_at > _STEADY_S:
                self.wait_s = _FIRST_WAIT_S
            self.start_at, self.wait_s = now + self.wait_s, min(2 * self.wait_s, _LONGEST_WAIT_S)
            self.process = None
        if self.process is None and now >= self.start_at:
            self.start_at, self.starts = now, self.starts + 1
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"superbatch_server.service.{self.module}", str(os.getpid()), *self.arguments],
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=self.pass_fds,
                start_new_session=True,  # a Ctrl-C is for the parent, which stops them in order
            )

    def stop(self, *, limit_s: float) -> None:
        """End it, by force after `limit_s`."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def command(arguments: list[str]) -> int:
    """Run the service until SIGTERM or Ctrl-C."""
    try:
        options = _parser().parse_args(arguments)
        settings = read_settings(os.environ, **_overrides(options))
        with data_dir_lock(settings.data_dir, shared=options.only is not None):
            if options.only == "supervisor":
                return _supervise(settings)
            make_token(settings.data_dir, settings.token_file)
            with listen(settings.host, settings.port, data_dir=settings.data_dir) as listener:
                bound = settings.model_copy(update={"port": listener.getsockname()[1]})
                return _serve(bound, listener, with_supervisor=options.only is None)
    except (CannotServe, ValueError) as error:
        print(f"superbatch serve: {error}", file=sys.stderr)
        return 2


def _serve(settings: Settings, listener: socket.socket, *, with_supervisor: bool) -> int:
    stop, environment = _stop_signal(), _children_environment(settings)
    descriptor = listener.fileno()
    api = Child("api_process", (str(descriptor),), pass_fds=(descriptor,))
    supervisor = Child("supervisor", ())
    try:
        if not _wait_healthy(settings, api, environment, stop):
            return 0 if stop.is_set() else 1
        with announced(settings.data_dir, url=settings.service_url):
            _greet(settings)
            while not stop.wait(_POLL_S):
                api.keep(environment)
                if with_supervisor:
                    supervisor.keep(environment)
        return 0
    finally:
        # Drivers go first: what they still have to say is said to the API.
        supervisor.stop(limit_s=settings.stop_grace_s + _GOODBYE_S)
        api.stop(limit_s=_GOODBYE_S)
        for pid in orphaned_processes():
            kill(pid)


def _supervise(settings: Settings) -> int:
    """Keep a supervisor running; its drivers reach an API that runs elsewhere."""
    stop, environment = _stop_signal(), _children_environment(settings)
    supervisor = Child("supervisor", ())
    print(f"Superbatch supervisor; its drivers reach the API at {settings.driver_url}", flush=True)
    try:
        while not stop.wait(_POLL_S):
            supervisor.keep(environment)
        return 0
    finally:
        supervisor.stop(limit_s=settings.stop_grace_s + _GOODBYE_S)
        for pid in orphaned_processes():
            kill(pid)


def _stop_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _children_environment(settings: Settings) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.upper().startswith(PREFIX)}
    return own | settings.environment()


def _wait_healthy(settings: Settings, api: Child, environment: Mapping[str, str], stop: threading.Event) -> bool:
    """Start the API alone, so that it is soon there, and wait for its first healthy answer; False when told to stop."""
    deadline = time.monotonic() + _START_LIMIT_S
    while not stop.wait(_POLL_S) and time.monotonic() < deadline:
        api.keep(environment)
        if api.starts > _START_TRIES:
            break
        if _is_healthy(settings):
            return True
    if not stop.is_set():
        print("superbatch serve: the API could not start; its own message stands above", file=sys.stderr)
    return False


def _is_healthy(settings: Settings) -> bool:
    host = settings.service_url.removeprefix("http://").rpartition(":")[0].strip("[]")
    connection = http.client.HTTPConnection(host, settings.port, timeout=1.0)
    try:
        connection.request("GET", "/v1/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _greet(settings: Settings) -> None:
    with usable(settings.data_dir):
        code = new_login_code(settings.data_dir)
    print(f"Superbatch answers at {settings.service_url}; the token is in {settings.token_file}", flush=True)
    print(f"Dashboard (the code works once): {settings.service_url}/login?code={code}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="superbatch serve",
        description="Run the service: API, dashboard, supervisor. Every setting is also a variable SUPERBATCH_<NAME>.",
    )
    parser.add_argument("--only", choices=["api", "supervisor"], help="run one part; the other runs elsewhere")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="catalog, token, logs (~/.local/share/superbatch)")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="TCP port; 0 picks a free one (8600)")
    parser.add_argument(
        "--root", action="append", default=[], metavar="NAME=PATH", help="a place that holds data; may be repeated"
    )
    parser.add_argument("--database-url", metavar="URL", help="SQLAlchemy URL of the catalog (SQLite in the data dir)")
    parser.add_argument("--store-url", metavar="URL", help="where lists, scores and embeddings are written")
    parser.add_argument("--num-workers", type=int, help="workers of a job")
    parser.add_argument("--max-running", type=int, help="jobs that run at the same time")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    given: dict[str, object] = {
        name: value for name, value in vars(options).items() if name not in ("root", "only") and value is not None
    }
    if options.root:
        pairs = [argument.partition("=") for argument in options.root]
        if any(not separator for _, separator, _ in pairs):
            raise ValueError(
                f"a root must be NAME=PATH; got {', '.join(options.root)} (--root). For example --root pool=./pool"
            )
        given["roots"] = _roots([(name, location) for name, _, location in pairs])
    return given


def _roots(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return the roots by name; refuse a name given twice and a local folder that is not there."""
    roots: dict[str, str] = {}
    for name, location in pairs:
        if name in roots:
            raise ValueError(f"each root may be named once; got {name} twice (--root). Give the second another name")
        if "://" not in location and not Path(location).expanduser().is_dir():
            raise ValueError(f"a root must be a folder that is there; got {location} (--root {name}). Make it first")
        roots[name] = location
    return roots


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
