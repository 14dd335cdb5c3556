"""Who may ask: the bearer token of this deployment, or a browser that exchanged a one-time code for a cookie.

Three guards against other people's web pages on the user's machine: the Host header must name this service (DNS
rebinding), the cookie is HttpOnly and SameSite=Strict, and a change by cookie must come from our own origin (another
port of 127.0.0.1 is the same *site*).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import time
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from superbatch_server.schemas.errors import Forbidden, HostRefused, Unauthorized
from superbatch_server.service.context import Deployed, deployment_of
from superbatch_server.service.login_codes import new_login_code, redeem_login_code
from superbatch_server.service.problems import problem_response
from superbatch_server.service.settings import Settings

COOKIE = "superbatch_session"
SESSION_S = 7 * 24 * 3600
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_TOKEN_HINT = (
    "Send 'Authorization: Bearer <token>'; the token is in the file 'token' of the service's data folder "
    "(SUPERBATCH_DATA_DIR)."
)

__all__ = ["COOKIE", "HostGuard", "is_session", "is_user", "new_login_code", "new_session", "require_user", "router"]

router = APIRouter(include_in_schema=False)


def new_session(token: str, *, now_s: float) -> str:
    """Return the value of a cookie: when it expires, and a proof that this deployment made it."""
    expires = str(int(now_s) + SESSION_S)
    return f"{expires}.{_proof(token, expires)}"


def is_session(token: str, cookie: str, *, now_s: float) -> bool:
    """Claim that this deployment made the cookie and that it has not expired."""
    expires, _, proof = cookie.partition(".")
    return _is_same(proof, _proof(token, expires)) and expires.isdecimal() and now_s < int(expires)


def require_user(request: Request) -> None:
    """Raise Unauthorized unless the request carries the token or a session."""
    deployment = deployment_of(request)
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, credential = header.partition(" ")
        if scheme.lower() == "bearer" and _is_same(credential.strip(), deployment.token):
            return
        raise Unauthorized(
            f"the bearer token must be this deployment's; got another (header Authorization). {_TOKEN_HINT}"
        )
    cookie = request.cookies.get(COOKIE)
    if cookie is None or not is_session(deployment.token, cookie, now_s=time.time()):
        raise Unauthorized(f"a request must carry a credential; got none that is valid. {_TOKEN_HINT}")
    _require_own_origin(request)


def is_user(request: Request) -> bool:
    """Claim that `require_user` lets the request pass."""
    try:
        require_user(request)
    except (Unauthorized, Forbidden):
        return False
    return True


@router.get("/login")
def login(deployment: Deployed, code: Annotated[str, Query(max_length=200)]) -> RedirectResponse:
    """Exchange a one-time code for a cookie and go to the dashboard."""
    if not redeem_login_code(deployment.settings.data_dir, code):
        raise Unauthorized(
            "a login code works once, within a day; got one that is unknown, old or used (query code). "
            "Ask for a new address with `superbatch dashboard`, or restart the service."
        )
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    answer = RedirectResponse("/", status_code=303, headers=headers)
    session = new_session(deployment.token, now_s=time.time())
    answer.set_cookie(COOKIE, session, max_age=SESSION_S, httponly=True, samesite="strict")
    return answer


class HostGuard:
    """Answers only requests whose Host names this service; an address in digits cannot be rebound and is let in."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        origins = {urlsplit(origin).hostname or "" for origin in settings.cors_origins}
        self._names = {"localhost", settings.host.lower(), socket.gethostname().lower(), *origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(values) != 1 or not self._is_ours(values[0]):
                error = HostRefused(
                    f"the Host header must name this service; got {values[:2]!r}. Use its address in digits or "
                    "localhost, or set SUPERBATCH_HOST to the name."
                )
                await problem_response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _require_own_origin(request: Request) -> None:
    if request.method in _SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("Host"):
        raise Forbidden(
            f"a change by cookie must come from the dashboard's own pages; got origin {origin!r} (header Origin). "
            "Use the bearer token instead."
        )


def _proof(token: str, expires: str) -> str:
    return hmac.new(token.encode(), b"superbatch-session-v1\0" + expires.encode(), hashlib.sha256).hexdigest()


def _is_same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
