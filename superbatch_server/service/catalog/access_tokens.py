"""Access tokens in the catalog: by the digest of their secret, never the secret itself."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select

from superbatch_server.schemas.errors import NotFound
from superbatch_server.schemas.tokens import AccessToken, NewAccessToken, Scope, TokenRequest
from superbatch_server.service.catalog.claims import secret_digest
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.pages import PageQuery, read_page
from superbatch_server.service.catalog.tables import access_tokens

SECRET_PREFIX = "sbt_"
"""By which people and secret scanners know a token, and the service knows that a look-up is worth it."""

_DAY_MS = 24 * 3600 * 1000


def create_token(connection: Connection, request: TokenRequest) -> NewAccessToken:
    """Add a token and return it with its secret, of which only the digest is kept."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    token_id, at_ms = f"token_{secrets.token_hex(8)}", now_ms(connection)
    lifetime_ms = None if request.expires_days is None else round(request.expires_days * _DAY_MS)
    connection.execute(
        insert(access_tokens).values(
            id=token_id,
            name=request.name,
            scope=request.scope,
            secret_sha256=secret_digest(secret),
            created_ms=at_ms,
            expires_ms=None if lifetime_ms is None else at_ms + lifetime_ms,
        )
    )
    row = connection.execute(select(access_tokens).where(access_tokens.c.id == token_id)).mappings().one()
    return NewAccessToken(**_token(row, at_ms).model_dump(), secret=secret)


def list_tokens(connection: Connection, query: PageQuery) -> tuple[list[AccessToken], str | None]:
    """Return a page of tokens, newest first."""
    rows, page_token = read_page(connection, access_tokens, query)
    at_ms = now_ms(connection)
    return [_token(row, at_ms) for row in rows], page_token


def delete_token(connection: Connection, token_id: str) -> None:
    """Forget a token; who holds it is refused from then on."""
    found = connection.execute(delete(access_tokens).where(access_tokens.c.id == token_id))
    if found.rowcount == 0:
        raise NotFound(f"a token must exist; got {token_id!r} (token). List them with GET /v1/tokens.")


def token_of_secret(connection: Connection, secret: str) -> tuple[str, Scope] | None:
    """Return id and scope of the token that has this secret and has not expired."""
    is_fresh = or_(access_tokens.c.expires_ms.is_(None), access_tokens.c.expires_ms > now_ms(connection))
    query = select(access_tokens.c.id, access_tokens.c.scope)
    row = connection.execute(
        query.where(access_tokens.c.secret_sha256 == secret_digest(secret), is_fresh)
    ).one_or_none()
    return None if row is None else (row.id, Scope(row.scope))


def _token(row: RowMapping, at_ms: int) -> AccessToken:
    expires_ms = row["expires_ms"]
    return AccessToken(
        id=row["id"],
        name=row["name"],
        scope=Scope(row["scope"]),
        created_at=rfc3339(row["created_ms"]),
        expires_at=None if expires_ms is None else rfc3339(expires_ms),
        is_expired=expires_ms is not None and expires_ms <= at_ms,
    )
