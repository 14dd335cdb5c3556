"""The name that a catalog gave itself, once and for good; a copy or a restored backup of it has the same."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, insert, select

from superbatch_server.service.catalog.tables import catalog_identity


def catalog_id(connection: Connection) -> str:
    """Return the catalog's name; it is made in a writing transaction, which may lose a race for it (`transact`)."""
    known: str | None = connection.execute(select(catalog_identity.c.id)).scalar_one_or_none()
    if known is None:
        known = f"catalog_{secrets.token_hex(8)}"
        connection.execute(insert(catalog_identity).values(number=1, id=known))
    return known
