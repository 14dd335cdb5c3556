"""Who may ask: who holds a bearer token, or a browser that exchanged a one-time code for a cookie.

Three guards against other people's web pages on the user's machine: the Host header must name this service (DNS
rebinding), the cookie is HttpOnly and SameSite=Strict, and a change by cookie must come from our own origin (another
port of 127.0.0.1 is the same *site*).
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from superbatch_server.schemas.errors import Forbidden, HostRefused, Unauthorized
from superbatch_server.service.access.credentials import SESSION, SESSION_S, Credential, is_session, new_session
from superbatch_server.service.access.login_codes import new_login_code, redeem_login_code
from superbatch_server.service.access.scopes import SAFE_METHODS, require_scope, template_of
from superbatch_server.service.context import Deployment, deployment_of
from superbatch_server.service.problems import problem_response
from superbatch_server.service.settings import Settings

COOKIE = "superbatch_session"
_REMEMBERED = "superbatch.credential"
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
"""An address in brackets, or a name or an IPv4 address, and a port; no user, no path."""

_TOKEN_HINT = (
    "Send 'Authorization: Bearer <token>'; the token is in the file 'token' of the service's data folder "
    "(SUPERBATCH_DATA_DIR), or made by `superbatch tokens create`."
)

__all__ = [
    "COOKIE",
    "HostGuard",
    "bearer_of",
    "credential_of",
    "is_session",
    "is_still_user",
    "is_user",
    "may_send",
    "new_login_code",
    "new_session",
    "require_user",
    "sign_in",
]


def credential_of(request: Request) -> Credential:
    """Return whose request it is; found once per request.

    Raises:
        Unauthorized: it carries no credential, or none that is valid.
        Forbidden: it would change something by cookie, and comes from another origin.
    """
    known: Credential | None = request.scope.get(_REMEMBERED)
    if known is None:
        known = request.scope[_REMEMBERED] = _find_credential(request)
    return known


def require_user(request: Request) -> None:
    """Raise Unauthorized or Forbidden unless the request carries a credential of the scope that it needs."""
    held = credential_of(request)
    template = getattr(request.scope.get("route"), "path_format", request.url.path)
    require_scope(held.scope, request.method, template)


def is_user(request: Request) -> bool:
    """Claim that the request carries a valid credential, of whatever scope."""
    try:
        credential_of(request)
    except (Unauthorized, Forbidden):
        return False
    return True


def is_still_user(request: Request) -> bool:
    """Claim that the credential is valid now; for answers that last longer than a token may."""
    try:
        _find_credential(request)
    except (Unauthorized, Forbidden):
        return False
    return True


def may_send(request: Request) -> bool:
    """Claim that whoever asks holds a valid credential; raise Forbidden unless its scope covers the request.

    For what comes before the routes: the path is looked up in the table of scopes.
    """
    if not is_user(request):
        return False
    template = template_of(request.method, request.url.path)
    require_scope(credential_of(request).scope, request.method, template)
    return True


def bearer_of(request: Request) -> str | None:
    """Return the secret of the Authorization header: empty where it is of another scheme, None without a header."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def sign_in(deployment: Deployment, code: str) -> RedirectResponse:
    """Exchange a one-time code for a cookie and go to the dashboard. Raises: Unauthorized."""
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
        allowed = {name.lower() for name in settings.allowed_hosts}
        self._names = {"localhost", settings.host.lower(), socket.gethostname().lower(), *origins, *allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(values) != 1 or not self._is_ours(values[0]):
                error = HostRefused(
                    f"the Host header must name this service; got {values[:2]!r}. Use its address in digits or "
                    "localhost, or add the name to SUPERBATCH_ALLOWED_HOSTS."
                )
                await problem_response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found[1] or found[2]).lower()
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _find_credential(request: Request) -> Credential:
    deployment = deployment_of(request)
    secret = bearer_of(request)
    if secret is not None:
        found = deployment.known_tokens.find(secret)
        if found is None:
            raise Unauthorized(
                "the bearer token must be one of this deployment that has not ended; got another "
                f"(header Authorization). {_TOKEN_HINT}"
            )
        return found
    cookie = request.cookies.get(COOKIE)
    if cookie is None or not is_session(deployment.token, cookie, now_s=time.time()):
        raise Unauthorized(f"a request must carry a credential; got none that is valid. {_TOKEN_HINT}")
    _require_own_origin(request)
    return SESSION


def _require_own_origin(request: Request) -> None:
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("Host"):
        raise Forbidden(
            f"a change by cookie must come from the dashboard's own pages; got origin {origin!r} (header Origin). "
            "Use the bearer token instead."
        )
