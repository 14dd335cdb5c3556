"""Serves the tars of a job over HTTP, each as soon as its batch is composed; standard library only.

GET /<secret>/00000012.tar    200 with Content-Length when it is there; waits for it up to hold_s, then 503
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import BinaryIO, cast

from superbatch.formats.errors import LogError, SuperbatchError
from superbatch.webdataset.composed_batches import ComposedBatches, NoSuchBatch
from superbatch.webdataset.export import ReadRows
from superbatch.webdataset.layout import TarLayout, tar_index_of, tar_pattern
from superbatch.webdataset.tar_writer import write_tar

_PATH = re.compile(r"/([0-9a-f]{32})/(\d{8}\.tar)")
_log = logging.getLogger(__name__)


def path_secret(token: str, job: str) -> str:
    """Return the first part of every path: known to who has the token, and the same after a restart."""
    return sha256(f"superbatch-tars-v1\0{job}\0{token}".encode()).hexdigest()[:32]


def curl_url(address: str, *, num_tries: int = 60, delay_s: int = 2) -> str:
    """Return the `pipe:` URL with which webdataset reads a tar of this server.

    curl writes into a temporary file, so that a broken connection is tried again from the start, and what in the end
    cannot be had whole gives no data at all: webdataset takes a tar that is cut off between two rows for a whole one.

    Args:
        address: http://host:port/<secret>/{00000000..00000047}.tar
        num_tries: tries of curl after the first; each waits for hold_s of the server.
        delay_s: seconds between them.
    """
    curl = f"curl -sSf --retry {num_tries} --retry-delay {delay_s} --retry-all-errors -o $t {address}"
    return f"pipe:t=$(mktemp) && {curl} && cat $t; s=$?; rm -f $t; exit $s"


@dataclass(frozen=True, slots=True)
class ServedTars:
    """What is served: batches as they are composed, cut by a layout.

    readers: each is used by one thread at a time, so that as many tars are read at once.
    """

    batches: ComposedBatches
    layout: TarLayout
    readers: Sequence[ReadRows]
    with_metadata: bool = False


class TarServer(ThreadingHTTPServer):
    """The server: `serve_forever` runs it, `shutdown` ends that.

    Args:
        tars: what it serves.
        secret: first part of every path; other paths are 404.
        host, port: where it listens; port 0 takes a free one.
        hold_s: how long a request waits for a batch before it is answered with 503, on which curl tries again.
        on_served: called with each tar's index and length once it was sent whole.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        tars: ServedTars,
        *,
        secret: str,
        host: str = "127.0.0.1",
        port: int = 0,
        hold_s: float = 300.0,
        on_served: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__((host, port), _Handler)
        self.tars, self.secret, self.host, self.hold_s, self.on_served = tars, secret, host, hold_s, on_served
        self._readers: SimpleQueue[ReadRows] = SimpleQueue()
        for read_rows in tars.readers:
            self._readers.put(read_rows)

    def write(self, out: BinaryIO, tar_index: int) -> int | None:
        """Write a tar and return its length, or None when its batch was not composed within hold_s.

        Raises:
            What ComposedBatches.get, the reader and write_tar raise.
        """
        part = self.tars.layout.part_of(tar_index)
        batch = self.tars.batches.get(part.seq, timeout_s=self.hold_s)
        if batch is None:
            return None
        read_rows = self._readers.get()
        try:
            examples = read_rows(batch.rows.slice(part.slots.start, len(part.slots)))
        finally:
            self._readers.put(read_rows)
        return write_tar(out, examples, seq=part.seq, with_metadata=self.tars.with_metadata)

    def address(self, indices: range, *, host: str | None = None) -> str:
        """Return the address of these tars in brace notation, by the name under which trainers see this machine."""
        return f"http://{host or self.host}:{self.server_port}/{self.secret}/{tar_pattern(indices)}"


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: TarServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a tar, whole, or with a status that curl -f takes for a failure."""
        try:
            self._answer()
        except (ConnectionError, TimeoutError):  # the reader has gone; it asks again, or does not
            self.close_connection = True

    def _answer(self) -> None:
        found = _PATH.fullmatch(self.path)
        if found is None or found[1] != self.server.secret:
            self._refuse(404, "no such path; use the address that superbatch serve-tars printed")
            return
        index = tar_index_of(found[2])
        with tempfile.TemporaryFile() as file:
            try:
                length = self.server.write(cast("BinaryIO", file), index)
            except SuperbatchError as error:
                self._refuse(_status_of(error), str(error))
                return
            if length is None:
                self._refuse(503, "the batch is not composed yet")
                return
            file.seek(0)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-tar")
            self.send_header("Content-Length", str(length))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, 1 << 20)
        if self.server.on_served is not None:
            self.server.on_served(index, length)

    def _refuse(self, status: int, sentence: str) -> None:
        if status != 503:
            _log.warning("%s: %d, %s", self.path[-16:], status, sentence)
        content = f"{sentence}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: one line per tar would drown what matters."""


def _status_of(error: SuperbatchError) -> int:
    """Return 404 for a batch that the log does not have, 410 for a log that cannot go on, 500 for the rest."""
    if isinstance(error, NoSuchBatch):
        return 404
    return 410 if isinstance(error, LogError) else 500
