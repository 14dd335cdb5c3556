"""The first look at a request, before its body is read: who asks, and whether the limits let it in.

Drivers are outside these limits: each is one process that the supervisor started, fenced by its own secret.
"""

from __future__ import annotations

from contextlib import ExitStack

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from superbatch_server.schemas.errors import NotFound, TooManyRequests
from superbatch_server.service.access.auth import bearer_of, credential_of, is_user
from superbatch_server.service.access.credentials import needs_catalog
from superbatch_server.service.access.limits import Limits
from superbatch_server.service.context import deployment_of
from superbatch_server.service.problems import problem_response

_OUTSIDE = ("/internal/", "/healthz", "/v1/health")


class Gate:
    """Refuses with 429 what is beyond the limits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counted."""
        if scope["type"] != "http" or scope["path"].startswith(_OUTSIDE):
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"]:  # a database of ours may hold none, and each would say so in its own way
            error = NotFound("a path must be one of the API's; got one with the character NUL. Correct it.")
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        request = Request(scope)
        asker, is_known = await _asker(request)
        with ExitStack() as under_way:
            try:
                _enter(under_way, deployment_of(request).limits, request, asker, is_known=is_known)
            except TooManyRequests as refused:
                await problem_response(refused, scope["path"])(scope, receive, send)
                return
            await self._app(scope, receive, send)


def _enter(under_way: ExitStack, limits: Limits, request: Request, asker: str, *, is_known: bool) -> None:
    under_way.enter_context(limits.request(asker))
    if not is_known:  # the route refuses: nothing is waited for
        return
    if wants_stream(request):
        under_way.enter_context(limits.stream(asker))
    elif "wait" in request.query_params:
        under_way.enter_context(limits.waiter(asker))


def wants_stream(request: Request) -> bool:
    """Claim that the client asks for server-sent events."""
    return "text/event-stream" in request.headers.get("Accept", "").lower()


async def _asker(request: Request) -> tuple[str, bool]:
    """Return the name of who asks, the credential's or, where none is valid, the address; and which of them it is."""
    secret = bearer_of(request)
    known_tokens = deployment_of(request).known_tokens
    is_slow = secret is not None and needs_catalog(secret) and known_tokens.remembered(secret) is None
    found = await run_in_threadpool(is_user, request) if is_slow else is_user(request)
    if found:
        return credential_of(request).id, True
    return (f"address {request.client.host}" if request.client else "address unknown"), False
