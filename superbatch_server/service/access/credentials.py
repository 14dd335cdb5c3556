"""Whose request it is: the deployment's own token, an access token of the catalog, or a browser's session.

An access token is looked up by its digest and remembered for half a second, so that 100 pollers do not ask the catalog
100 times and a deleted token is refused within a second in every API process.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from superbatch_server.schemas.tokens import Scope
from superbatch_server.service.catalog.access_tokens import SECRET_PREFIX, token_of_secret
from superbatch_server.service.catalog.engine import read

REMEMBERED_S = 0.5
MAX_REMEMBERED = 1024
SESSION_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Credential:
    """Who asks, by a name that is no secret, and what they may do."""

    id: str
    scope: Scope


OWN = Credential("deployment", Scope.ADMIN)
SESSION = Credential("session", Scope.ADMIN)


class KnownTokens:
    """The bearers that this deployment answers."""

    def __init__(self, engine: Engine, own_token: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._own_token = own_token
        self._clock = clock
        self._lock = threading.Lock()
        self._remembered: dict[bytes, tuple[float, Credential]] = {}

    def remembered(self, secret: str) -> Credential | None:
        """Return whose secret it is where that is known without the catalog."""
        if is_same(secret, self._own_token):
            return OWN
        with self._lock:
            until_s, credential = self._remembered.get(_key(secret), (0.0, None))
        return credential if self._clock() < until_s else None

    def find(self, secret: str) -> Credential | None:
        """Return whose secret it is, None where it is nobody's."""
        known = self.remembered(secret)
        if known is not None or not needs_catalog(secret):
            return known
        asked_s = self._clock()
        with read(self._engine) as connection:
            found = token_of_secret(connection, secret)
        if found is None:
            return None
        credential = Credential(*found)
        with self._lock:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[_key(secret)] = (asked_s + REMEMBERED_S, credential)
        return credential

    def forget(self) -> None:
        """Ask the catalog again for every token: one was deleted."""
        with self._lock:
            self._remembered.clear()


def needs_catalog(secret: str) -> bool:
    """Claim that a bearer has the form of an access token; any other is not worth a look-up."""
    return secret.startswith(SECRET_PREFIX)


def new_session(token: str, *, now_s: float) -> str:
    """Return the value of a cookie: when it expires, and a proof that this deployment made it."""
    expires = str(int(now_s) + SESSION_S)
    return f"{expires}.{_proof(token, expires)}"


def is_session(token: str, cookie: str, *, now_s: float) -> bool:
    """Claim that this deployment made the cookie and that it has not expired."""
    expires, _, proof = cookie.partition(".")
    return is_same(proof, _proof(token, expires)) and expires.isdecimal() and now_s < int(expires)


def is_same(left: str, right: str) -> bool:
    """Compare two secrets in a time that tells nothing of where they differ."""
    return hmac.compare_digest(left.encode(), right.encode())


def _proof(token: str, expires: str) -> str:
    return hmac.new(token.encode(), b"superbatch-session-v1\0" + expires.encode(), hashlib.sha256).hexdigest()


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
