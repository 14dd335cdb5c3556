"""Tars over HTTP: the bytes of the export, when they are there; what is broken is loud."""

from __future__ import annotations

import http.client
import http.server
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import webdataset as wds

from superbatch.conformance.faults import BrokenFiles, Fault, ServerFaults
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.service import SampleService
from superbatch.webdataset.composed_batches import ComposedBatches
from superbatch.webdataset.export import ReadRows
from superbatch.webdataset.layout import TarLayout, tar_name
from superbatch.webdataset.tar_server import ServedTars, TarServer, curl_url, path_secret
from tests.superbatch.webdataset.conftest import TOKEN, Export, OpenLog

Serve = Callable[..., TarServer]


@pytest.fixture
def serve(open_log: OpenLog, read_rows: ReadRows, job: SampleJob) -> Iterator[Serve]:
    """Starts servers of the sample job's tars for two ranks."""
    started: list[tuple[TarServer, threading.Thread]] = []

    def serves(**options: object) -> TarServer:
        tars = ServedTars(ComposedBatches(open_log), TarLayout(job.b, 2), [read_rows])
        server = TarServer(tars, secret=path_secret(TOKEN, JOB), **options)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        started.append((server, thread))
        return server

    yield serves
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()
        server.tars.batches.close()


def fetch(address: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def address_of(server: TarServer, tar_index: int) -> str:
    return server.address(range(tar_index, tar_index + 1)).rpartition("/")[0] + "/" + tar_name(tar_index)


def run_pipe(url: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-c", url.removeprefix("pipe:")], check=False, capture_output=True, timeout=120)


def test_served_tars_are_those_of_the_export(serve: Serve, export: Export, tmp_path: Path) -> None:
    folder, server = export(tmp_path, world_size=2), serve()
    for index in (0, 47, 3, 2):
        status, headers, content = fetch(address_of(server, index))
        assert (status, headers["Content-Length"]) == (200, str(len(content)))
        assert content == (folder / tar_name(index)).read_bytes()


def test_a_tar_waits_for_its_batch(serve: Serve, job: SampleJob, service: SampleService) -> None:
    service.faults = ServerFaults(restart_at_seq=job.late_seq)
    server = serve(hold_s=0.0)
    assert fetch(address_of(server, 2 * job.late_seq + 2))[0] == 503, "not there, and this server holds no request"
    server.hold_s = 60.0
    status, _, content = fetch(address_of(server, 2 * job.late_seq + 2))
    assert (status, len(content) > 0) == (200, True)


def test_curl_tries_again_until_the_batch_is_there(serve: Serve, job: SampleJob, service: SampleService) -> None:
    service.faults = ServerFaults(restart_at_seq=job.late_seq)
    url = curl_url(address_of(serve(hold_s=0.2), 2 * job.late_seq + 2), delay_s=1)
    found = run_pipe(url)
    assert (found.returncode, found.stdout[-1024:]) == (0, bytes(1024))


@pytest.mark.parametrize("path", ["/00000000.tar", f"/{'0' * 32}/00000000.tar", "/", f"/{path_secret(TOKEN, JOB)}/x"])
def test_a_path_without_the_secret_is_not_found(serve: Serve, path: str) -> None:
    server = serve()
    assert fetch(f"http://127.0.0.1:{server.server_port}{path}")[0] == 404


def test_the_secret_depends_on_token_and_job() -> None:
    secrets = {path_secret(token, job) for token in ("a", "b") for job in ("j", "k")}
    assert len(secrets) == 4
    assert path_secret("a", "j") == path_secret("a", "j")


def test_the_end_of_the_job_and_a_lost_row_are_refused(serve: Serve, job: SampleJob) -> None:
    server = serve()
    status, _, sentence = fetch(address_of(server, 48))
    assert (status, b"24 batches" in sentence) == (404, True)
    with BrokenFiles(job, Fault.LOST_SHARD):
        statuses = {fetch(address_of(server, 2 * job.late_seq + rank))[0] for rank in (0, 1)}
    assert 500 in statuses
    assert statuses <= {200, 500}, "the other rank's rows may all be there"


def test_a_withdrawn_batch_is_gone(serve: Serve, service: SampleService) -> None:
    service.faults = ServerFaults(revoked_seq=5)
    status, _, sentence = fetch(address_of(serve(), 10))
    assert (status, b"revoked" in sentence) == (410, True)


@contextmanager
def breaking_server(content: bytes, stop: int, *, num_broken: int) -> Iterator[str]:
    """Sends only `stop` bytes of a tar, the first `num_broken` times."""

    class Handler(http.server.BaseHTTPRequestHandler):
        num_requests = 0

        def do_GET(self) -> None:
            Handler.num_requests += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:stop] if Handler.num_requests <= num_broken else content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/00000000.tar"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stop_after_one_row(content: bytes) -> int:
    """Where the second row begins: a stock reader takes a tar that ends there for a whole one."""
    return content.index(b"000000000000-000001-")


@pytest.mark.filterwarnings("ignore")
def test_a_connection_that_breaks_between_two_rows_is_loud(export: Export, tmp_path: Path) -> None:
    content = (export(tmp_path, world_size=2) / tar_name(0)).read_bytes()
    cut = content[: stop_after_one_row(content)]
    (tmp_path / "cut.tar").write_bytes(cut)
    assert len(list(wds.WebDataset(str(tmp_path / "cut.tar"), shardshuffle=False))) == 1, "no error by itself"

    with breaking_server(content, len(cut), num_broken=1 << 30) as address:
        url = curl_url(address, num_tries=1, delay_s=1)
        found = run_pipe(url)
        assert (found.returncode, found.stdout) == (18, b""), "no data at all, and curl's status for a part of a file"
        with pytest.raises(Exception, match=r"empty file|exit 18"):
            list(wds.WebDataset(url, shardshuffle=False))


def test_a_connection_that_breaks_is_tried_again_from_the_start(export: Export, tmp_path: Path) -> None:
    content = (export(tmp_path, world_size=2) / tar_name(0)).read_bytes()
    with breaking_server(content, stop_after_one_row(content), num_broken=1) as address:
        found = run_pipe(curl_url(address, num_tries=2, delay_s=1))
    assert (found.returncode, found.stdout) == (0, content)
