"""Clients that send slowly, or never, on a real socket and through the app's own limit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from superbatch_server.service.access.body_limit import BodyLimit
from superbatch_server.service.api_process import server_config
from superbatch_server.service.http_protocol import TimedProtocol
from superbatch_server.service.problems import install_problem_handlers
from superbatch_server.service.settings import Settings
from tests.service.running import wait_until


class Impatient(TimedProtocol):
    head_s = 0.3


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def port() -> Iterator[int]:
    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Impatient, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started, "the server answers")
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(port: int) -> None:
    for begun in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(begun)
            assert client.recv(100) == b""


def test_a_connection_is_used_again_and_then_watched_again(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for _ in range(2):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
            answer = b""
            while not answer.endswith(b"\r\n\r\n2"):
                answer += client.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
        client.sendall(b"GET / HTTP/1.1\r\nHo")
        assert client.recv(100) == b""


def scope() -> dict[str, Any]:
    headers = [(b"content-length", b"10"), (b"host", b"x")]
    made = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    return made | {"root_path": "", "scheme": "http", "http_version": "1.1", "client": None, "server": None}


def status_of(parts: list[bytes], **limits: float) -> int:
    """Return what a client gets that sends these parts of ten bytes, and then nothing."""
    app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    install_problem_handlers(app)  # type: ignore[arg-type]
    app.add_middleware(BodyLimit, is_known=lambda request: True, **limits)
    sent: list[Any] = []
    left = list(parts)

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": sum(map(len, parts)) < 10 or bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    with contextlib.suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(app(scope(), receive, send), 20))
    return int(sent[0]["status"])


def test_a_body_that_stops_is_answered_with_408() -> None:
    assert status_of([b"12345", b"67890"]) == 200
    assert status_of([b"12345"], silence_s=0.05) == 408
    assert status_of([b"12345"], small_body_s=0.05) == 408


def test_the_api_is_served_with_limits_on_every_connection() -> None:
    config = server_config(Starlette(), Settings(data_dir="unused", max_connections=7))  # type: ignore[arg-type]
    assert config.limit_concurrency == 7
    assert config.http is TimedProtocol
    assert config.h11_max_incomplete_event_size == 32 << 10
    assert config.log_config is None
    assert not config.proxy_headers
