"""Access tokens of limited scope: `POST /v1/tokens`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from superbatch_server.schemas.base import Body

TokenName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,119}$")]


class Scope(StrEnum):
    """What a credential may do; each scope may do all that the ones above it may."""

    READ = "read"
    TRAINER = "trainer"
    ADMIN = "admin"

    def covers(self, needed: Scope) -> bool:
        """Claim that this scope may do what needs `needed`."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


class TokenRequest(Body):
    """A token to be made."""

    name: TokenName = Field(description="Who it is for.")
    scope: Scope
    expires_days: Annotated[float, Field(ge=0.001, le=3650)] | None = Field(
        default=None,
        description="Days until it ends, at least 0.001; null for one that is valid until it is deleted.",
    )


class AccessToken(Body):
    """A token as everybody may see it."""

    id: str
    name: str
    scope: Scope
    created_at: str
    expires_at: str | None
    is_expired: bool


class NewAccessToken(AccessToken):
    """The answer to the request that made the token."""

    secret: str | None = Field(
        description="The bearer; shown this once and kept nowhere. Null where the request was repeated with its "
        "Idempotency-Key: delete the token and make another if the first answer was lost."
    )
