"""Lists in pages: newest first, a token says where the next page begins. Tokens are opaque to clients."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, Table, and_, or_, select

from superbatch_server.schemas.errors import Validation

MAX_PAGE_SIZE = 500
_ID = re.compile(r"[a-z]+_[0-9a-z]{1,32}")


@dataclass(frozen=True)
class PageQuery:
    """What a client asks for."""

    page_size: int = 50
    page_token: str | None = None


def read_page(connection: Connection, table: Table, query: PageQuery) -> tuple[list[RowMapping], str | None]:
    """Return one page of a table with columns created_ms and id, and the token of the next page."""
    statement = select(table).order_by(table.c.created_ms.desc(), table.c.id.desc()).limit(query.page_size + 1)
    if query.page_token is not None:
        created_ms, last_id = _parse(query.page_token)
        statement = statement.where(
            or_(table.c.created_ms < created_ms, and_(table.c.created_ms == created_ms, table.c.id < last_id))
        )
    rows = list(connection.execute(statement).mappings())
    page = rows[: query.page_size]
    return page, _token(page[-1]) if len(rows) > len(page) else None


def _token(row: RowMapping) -> str:
    position = json.dumps([row["created_ms"], row["id"]], separators=(",", ":"))
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _parse(token: str) -> tuple[int, str]:
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        match json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)):
            case [int(created_ms), str(last_id)] if type(created_ms) is int and 0 <= created_ms < 1 << 62:
                if _ID.fullmatch(last_id):
                    return created_ms, last_id
    except (ValueError, binascii.Error):
        pass
    raise Validation(
        f"page_token must be a next_page_token of this list; got {token[:60]!r} (query). Start again without it."
    )
