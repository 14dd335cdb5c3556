"""Refuses request bodies while they come in: too long for their path, more than a little from nobody we know, too slow.

FastAPI reads and parses a body before any dependency, so a credential that is asked for there comes too late: 60 MB of
`[{},{},...` keep the event loop busy for seconds and take more than a gigabyte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superbatch_server.schemas.errors import ApiError, Unauthorized
from superbatch_server.service.problems import problem_response

MAX_BODY_BYTES = 8 << 20
"""The longest other body, a commit of 10,000 batches, takes about 3 MB."""

MAX_BODY_BYTES_OF_PATH = {"/v1/datasets": 64 << 20}
"""A data set of 100,000 shards, each with a long key and a sha256, takes about 30 MB."""

SMALL_BODY_BYTES = 64 << 10
"""Read from anybody: most requests are no longer, and the route itself asks for the credential."""

SILENCE_S = 30.0
"""The longest pause between two parts of a body."""

SMALL_BODY_S = 30.0
"""A small body, which comes in a packet or some, must be whole in this time."""


class BodyLimit:
    """Counts what comes in: the excess is answered with 413, a long body without a credential with 401, a pause with
    408. `is_known` claims that a long body may be read, or raises the ApiError that says why not.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        is_known: Callable[[Request], bool],
        silence_s: float = SILENCE_S,
        small_body_s: float = SMALL_BODY_S,
    ) -> None:
        self._app = app
        self._is_known = is_known
        self._silence_s = silence_s
        self._small_body_s = small_body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counted body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_small = _is_small(scope)
        if not is_small:
            try:
                await self._require_sender(Request(scope))
            except ApiError as error:
                await problem_response(error, scope["path"])(scope, receive, send)
                return
        received, max_bytes = 0, MAX_BODY_BYTES_OF_PATH.get(scope["path"], MAX_BODY_BYTES)
        is_whole = False
        stop_s = asyncio.get_running_loop().time() + self._small_body_s if is_small else float("inf")

        async def counted() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what is waited for now is the end of the connection
                return await receive()
            message = await self._next_part(receive, stop_s)
            is_whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)

    async def _require_sender(self, request: Request) -> None:
        if not await run_in_threadpool(self._is_known, request):
            raise Unauthorized(
                f"a body above {SMALL_BODY_BYTES} bytes, or of unknown length, needs a credential first; got none that "
                "is valid. Send 'Authorization: Bearer <token>'."
            )

    async def _next_part(self, receive: Receive, stop_s: float) -> Message:
        now_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(self._silence_s, stop_s - now_s)):
                return await receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None


def _is_small(scope: Scope) -> bool:
    """Claim that the server in front of us lets no more than SMALL_BODY_BYTES through."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return False
    length = headers.get(b"content-length", b"0")
    return bool(length.isdigit()) and len(length) < 10 and int(length) <= SMALL_BODY_BYTES
