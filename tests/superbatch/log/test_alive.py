"""A trainer's registration lives as long as its log; a service that answers too slowly holds nobody forever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from superbatch.formats.errors import InvalidInput, ServiceUnreachable
from superbatch.log import BatchLog
from tests.superbatch.log.conftest import OpenLog
from tests.superbatch.log.fake_service import JOB, FakeService


def test_a_registered_trainer_that_takes_nothing_stays_registered_until_it_closes(
    service: FakeService, open_log: OpenLog
) -> None:
    """Its batches may come through logs of worker processes, and an evaluation may last longer than the ttl."""
    service.publish_all(2)
    log = open_log()
    log.register("trainer", ttl_s=0.15)
    next(log)
    log.progress(trained_seq=1, durable_seq=0)
    until(lambda: len(service.reports) >= 5)
    log.close()
    assert {report["trained_seq"] for report in service.reports[1:]} == {1}
    settled = len(service.reports) + 1  # one may be on its way
    time.sleep(0.3)
    assert len(service.reports) <= settled


def test_a_late_repetition_never_takes_progress_back(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(20)
    log = open_log()
    log.register("trainer", ttl_s=0.003)
    for batch in log:
        log.progress(trained_seq=batch.seq + 1, durable_seq=batch.seq)
    reported = [report["trained_seq"] for report in service.reports]
    assert reported == sorted(reported)
    assert len(reported) > 21


def test_an_answer_that_comes_byte_by_byte_counts_as_silence() -> None:
    with slow_server() as url:
        log = BatchLog(url, JOB, timeout_s=0.2, num_attempts=2, sleep=lambda _: None)
        with pytest.raises(ServiceUnreachable, match=r"ReadTimeout: \d+ bytes came in"):
            next(log)
        log.close()


def test_closing_a_log_ends_a_request_that_waits(service: FakeService) -> None:
    with slow_server() as url:
        log = BatchLog(url, JOB, timeout_s=30.0)
        found: list[Exception] = []

        def wait() -> None:
            try:
                next(log)
            except Exception as error:
                found.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(0.3)
        log.close()
        waiting.join(10)
    assert isinstance(found[0], InvalidInput)
    assert "closed" in str(found[0])


@contextmanager
def slow_server() -> Iterator[str]:
    """Serve answers whose head is there at once and whose body comes byte by byte."""
    stop = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "60000")
            self.end_headers()
            with suppress(OSError):
                while not stop.wait(0.02):
                    self.wfile.write(b" ")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stop.set()
        server.shutdown()
        serving.join()
        server.server_close()


def until(is_so: Callable[[], bool], *, limit_s: float = 20.0) -> None:
    """Wait until something is so."""
    stop_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < stop_s, "not in time"
        time.sleep(0.01)
