"""Refuses JSON in which a name stands twice: a reader in front of us that takes the first of them, and Python, which
takes the last, would see two different requests.
"""

from __future__ import annotations

import json

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from superbatch_server.schemas.errors import Validation
from superbatch_server.service.access.scopes import SAFE_METHODS

_AT_ONCE_BYTES = 64 << 10
"""A longer body is looked at in a thread, so that the event loop goes on."""


async def require_names_once(request: Request) -> None:
    """Raise Validation where an object of the request's JSON body has a name twice."""
    if request.method in SAFE_METHODS or "json" not in request.headers.get("Content-Type", "").lower():
        return
    body = await request.body()  # read already, by whoever parsed it before this
    if len(body) <= _AT_ONCE_BYTES:
        _look(body)
    else:
        await run_in_threadpool(_look, body)


def _look(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_require_once)
    except (ValueError, RecursionError):
        return  # no JSON; where it must be, the route has said so


def _require_once(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise Validation(
            f"a name may stand once in an object; got {name[:80]!r} twice (body). Leave the one that is meant."
        )
