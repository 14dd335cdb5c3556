"""A small HTTP server of a folder, which can misbehave in the ways that servers do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote


class RangeServer(ThreadingHTTPServer):
    """Serves `folder`; `faults` are taken off one per request: see RangeHandler.answer."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.folder = folder
        self.faults: list[str] = []
        self.fault_always = ""
        self.requests: list[tuple[str, str, str, str]] = []
        self.etag = '"one"'

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that closes early is part of the tests, and it is the client that is tested."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class RangeHandler(BaseHTTPRequestHandler):
    """Answers `Range: bytes=a-b` and `bytes=-n`."""

    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        others = self.headers.get("Authorization", ""), self.headers.get("Accept-Encoding", "")
        server.requests.append((self.path, wanted, *others))
        fault = server.fault_always or (server.faults.pop(0) if server.faults else "")
        if fault == "drop":
            self.close_connection = True
            return
        if fault.isdigit():
            self.send(int(fault), {}, b"no")
            return
        file = server.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if not file.is_file():
            self.send(404, {}, b"")
            return
        self.answer(file.read_bytes(), wanted, fault)

    def answer(self, content: bytes, wanted: str, fault: str) -> None:
        if fault == "whole":
            self.send(200, {}, content)
            return
        size = len(content)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        assert match, wanted
        start = int(match[1]) if match[1] else max(0, size - int(match[2]))
        stop = min(size, int(match[2]) + 1) if match[1] and match[2] else size
        if start >= size:
            self.send(416, {"Content-Range": f"bytes */{size}"}, b"")
            return
        part = content[start:stop]
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "ETag": self.server.etag}
        if fault == "other":  # another range than asked for
            headers["Content-Range"] = f"bytes {start + 1}-{stop}/{size}"
        if fault == "gzip":
            headers["Content-Encoding"] = "gzip"
        if fault == "nameless":
            del headers["Content-Range"]
        if fault == "longer":
            part += b"more"
        self.send(206, headers, part, cut=fault == "cut")

    def send(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """A server of the folder, for as long as the block runs."""
    with RangeServer(folder) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
