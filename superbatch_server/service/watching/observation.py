"""What becomes of each request: its id, its line in the log, its place in the metrics, its answer where all else fails.

The log has the path, never the query: a login code or a signature stands there.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superbatch_server.service.problems import answer_to
from superbatch_server.service.watching.log_lines import log_context
from superbatch_server.service.watching.metrics import METHODS, RequestMetrics

log = logging.getLogger("superbatch.api")

REQUEST_ID = "X-Request-Id"
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_ATTEMPT = re.compile(r"/(?:internal/)?v1/jobs/([A-Za-z0-9_]{1,64})(?:[/:](?:attempts/([0-9]{1,18}))?|$)")
_QUIET = re.compile(r"/(healthz|v1/health|metrics)$|/(static|internal|live)/|/v1/jobs/[^/]+/(manifest$|lists/)")
"""What comes every second from every dashboard, driver and trainer is logged only when it fails, or for `debug`."""
_NO_ANSWER = 499
"""What the log says of a client that went away before it was answered."""


@dataclass
class _Exchange:
    """One request and what was answered so far."""

    started_s: float
    status: int = _NO_ANSWER
    has_begun: bool = False
    received_bytes: int = 0
    sent_bytes: int = 0


class Observation:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, whatever happens, and say what it was."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, exchange = _request_id(scope), _Exchange(time.perf_counter())
        named = _ATTEMPT.match(scope["path"])
        job, attempt = named.groups() if named else (None, None)

        async def counted_receive() -> Message:
            message = await receive()
            exchange.received_bytes += len(message.get("body", b""))
            return message

        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.has_begun = message["status"], True
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
            exchange.sent_bytes += len(message.get("body", b""))
            await send(message)

        with log_context(request_id=request_id, job=job, attempt=attempt), self._metrics.under_way():
            try:
                await self._app(scope, counted_receive, named_send)
            except ClientDisconnect:
                pass
            except Exception as error:
                log.exception("a request failed inside")
                if exchange.has_begun:
                    raise
                await answer_to(error, method=scope["method"], path=scope["path"])(scope, receive, named_send)
            finally:
                self._note(scope, exchange)

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started_s
        template = getattr(scope.get("route"), "path_format", None) or "unmatched"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.note(
            method=method,
            route=template,
            status=exchange.status,
            seconds=seconds,
            received_bytes=exchange.received_bytes,
            sent_bytes=exchange.sent_bytes,
        )
        is_quiet = _QUIET.match(scope["path"]) is not None and exchange.status < 400
        fields = {"method": method, "path": scope["path"][:200], "status": exchange.status}
        fields |= {"duration_ms": round(seconds * 1000, 1), "bytes": exchange.sent_bytes}
        log.log(logging.DEBUG if is_quiet else logging.INFO, "answered", extra={"fields": fields})


def _request_id(scope: Scope) -> str:
    """Return the client's id where it is a harmless word, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _VALID_ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(8)
