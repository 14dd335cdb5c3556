"""A sample service on a port of this machine, by the standard library; it can be killed and started again."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from superbatch.conformance.service import Request, SampleService


class RunningService:
    """Serves a sample service on 127.0.0.1; as a context, from its begin to its end.

    Args:
        service: what answers.
        down_s: how long the server stays away when the service wants to be restarted.
    """

    def __init__(self, service: SampleService, *, down_s: float = 1.0) -> None:
        self.service = service
        self.num_restarts = 0
        self._down_s = down_s
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._restart_when_wanted, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> RunningService:
        self._start()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.service.restart_wanted.set()
        self._watcher.join()
        self._stop()

    def _start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), self.service)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()

    def _restart_when_wanted(self) -> None:
        self.service.restart_wanted.wait()
        if self._closed.is_set():
            return
        self._stop()
        self._closed.wait(self._down_s)
        self.service.faults.restart_at_seq = None
        self.num_restarts += 1
        self._start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], service: SampleService) -> None:
        super().__init__(address, _Handler)
        self.service = service
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or a connection that was cut, is part of the tests."""

    def cut_connections(self) -> None:
        """Cut what is open, as the death of a process does."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Answer any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.service.answer(Request(self.command, self.path, headers, body))
        self.send_response(reply.status)
        for name, value in {"Content-Type": reply.MEDIA_TYPE, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_PUT = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the report says what matters."""
