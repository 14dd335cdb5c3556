"""A Jobs API of a few lines, over real HTTP: it answers as Ray 2.60 does, and fails as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "right"


class FakeRay:
    """What the cluster knows. `faults` holds, per method and kind of path, the statuses of the next answers."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.faults: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.loses_answers = False
        self.ignores_stop = False
        self.hangs = threading.Event()
        self.address = ""

    def set(self, name: str, status: str, **fields: Any) -> None:
        """Let a submission be in a state."""
        self.jobs[name] |= {"status": status, **fields}

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body."""
        parts = path.removeprefix("/api/").strip("/").split("/")
        if parts == ["version"]:
            return 200, {"version": "4"}
        name, verb = [*parts, "", ""][1:3]
        if method == "POST" and not name:
            return self._submit(body)
        if not name:
            return 200, [{"type": "DRIVER", "status": "RUNNING"}, *self.jobs.values()]
        if name not in self.jobs:
            return 404, f"Job {name} does not exist"
        return self._about(method, name, verb)

    def _about(self, method: str, name: str, verb: str) -> tuple[int, Any]:
        job = self.jobs[name]
        if verb == "logs":
            return 200, {"logs": self.logs.get(name, "")}
        if verb == "stop":
            if not self.ignores_stop and job["status"] in ("PENDING", "RUNNING"):
                job["status"] = "STOPPED"
            return 200, {"stopped": True}
        if method == "DELETE":
            if job["status"] in ("PENDING", "RUNNING"):
                return 500, "it is in a non-terminal state"
            del self.jobs[name]
            return 200, {"deleted": True}
        return 200, job

    def _submit(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["submission_id"]
        if name in self.jobs:
            return 500, f"Job with submission_id {name} already exists."
        self.jobs[name] = {"submission_id": name, "status": "PENDING", "body": body, "metadata": body["metadata"]}
        return (502, "gone") if self.loses_answers else (200, {"submission_id": name})


@contextlib.contextmanager
def fake_ray() -> Iterator[FakeRay]:
    """Serve a fake on a free port."""
    fake = FakeRay()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            kind = (
                f"{self.command} {'/'.join(self.path.strip('/').split('/')[1:2] + self.path.strip('/').split('/')[3:])}"
            )
            fake.asked.append(f"{self.command} {self.path}")
            if faults := fake.faults.get(kind):
                status, said = faults.pop(0), "told to fail"
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, said = 401, "Unauthorized"
            else:
                status, said = fake.answer(self.command, self.path, body)
            fake.hangs.wait(5) if status == 0 else self._say(status, said)

        def _say(self, status: int, said: Any) -> None:
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.hangs.set()
        server.shutdown()
        server.server_close()
        thread.join()
