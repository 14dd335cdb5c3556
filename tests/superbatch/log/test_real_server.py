"""BatchLog over real sockets: long poll, a slow list, a dropped connection, and a server that is killed and "
"comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from superbatch.log import BatchLog
from tests.superbatch.formats.sample_batches import a_batch
from tests.superbatch.log.fake_service import JOB, TOKEN, FakeService


class Handler(BaseHTTPRequestHandler):
    """Passes requests on to the FakeService of its server; a poll without news is held back like the real one does."""

    server: Server

    def do_GET(self) -> None:
        service = self.server.service
        query = dict(httpx.URL("http://host" + self.path).params)
        deadline = time.monotonic() + float(query.get("wait", 0))
        while self.is_news_wanted(query) and time.monotonic() < deadline:
            time.sleep(0.005)
        answer = service.answer(httpx.Request("GET", f"http://host{self.path}", headers=dict(self.headers)))
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        half = len(answer.content) // 2
        self.wfile.write(answer.content[:half])
        if self.server.drops:
            self.server.drops -= 1
            self.close_connection = True
            return
        self.wfile.flush()
        time.sleep(self.server.delay_s)
        self.wfile.write(answer.content[half:])

    def is_news_wanted(self, query: dict[str, str]) -> bool:
        service = self.server.service
        return "after" in query and int(query["after"]) >= service.next_seq and service.end is None

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    drops = 0
    delay_s = 0.0

    def __init__(self, service: FakeService, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.service = service


@contextmanager
def serving(service: FakeService, port: int = 0) -> Iterator[Server]:
    with Server(service, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def opened(port: int, **options: object) -> BatchLog:
    return BatchLog(f"http://127.0.0.1:{port}", JOB, token=TOKEN, wait_s=5.0, **options)


def test_batches_arrive_as_they_are_published(service: FakeService) -> None:
    with serving(service) as server, opened(server.server_port) as log:
        publisher = threading.Thread(target=publish_slowly, args=(service, 5))
        publisher.start()
        began_s = time.monotonic()
        assert [batch.seq for batch in log] == list(range(5))
        publisher.join()
        assert time.monotonic() - began_s < 4.0


def publish_slowly(service: FakeService, num_batches: int) -> None:
    for seq in range(num_batches):
        time.sleep(0.05)
        if seq == num_batches - 1:
            service.publish_all(1)
        else:
            service.publish(a_batch(seq))


def test_a_slow_server_is_waited_for_and_a_torn_answer_is_asked_for_again(service: FakeService) -> None:
    service.publish_all(3)
    with serving(service) as server, opened(server.server_port) as log:
        server.delay_s = 0.05
        server.drops = 2
        assert [batch.seq for batch in log] == [0, 1, 2]
        assert server.drops == 0


def test_a_silent_server_is_given_up_and_asked_again(service: FakeService) -> None:
    service.publish_all(1)
    with serving(service) as server, opened(server.server_port, timeout_s=0.2) as log:
        log.manifest()
        server.delay_s = 0.5
        threading.Timer(0.4, setattr, (server, "delay_s", 0.0)).start()
        assert [batch.seq for batch in log] == [0]


def test_a_killed_server_that_comes_back_loses_nothing(service: FakeService) -> None:
    service.publish_all(6, per_list=2)
    with serving(service) as server:
        port = server.server_port
        log = opened(port)
        seqs = [next(log).seq]
    with serving_later(service, port, delay_s=0.3), log:
        seqs += [batch.seq for batch in log]
    assert seqs == [0, 1, 2, 3, 4, 5]


@contextmanager
def serving_later(service: FakeService, port: int, *, delay_s: float) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        time.sleep(delay_s)
        with serving(service, port):
            stop.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
