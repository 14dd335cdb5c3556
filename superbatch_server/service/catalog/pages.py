"""Lists in pages: newest first, a token says where the next page begins.

A token is opaque to clients and tagged with the list that it was made for: the table or job, and the filter. It names a
row, not a count, so a page is the same whatever was added meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, select, tuple_

from superbatch_server.schemas.errors import PageTokenRefused

MAX_PAGE_SIZE = 500
LARGEST_INTEGER = 2**63 - 1
"""That a column can be compared with, in SQLite and in Postgres."""

_ID = re.compile(r"[a-z]+_[0-9a-z]{1,32}")
_TAG_CHARS = 16


@dataclass(frozen=True)
class PageQuery:
    """What a client asks for."""

    page_size: int = 50
    page_token: str | None = None


def read_page(
    connection: Connection, table: Table, query: PageQuery, *, where: ColumnElement[bool] | None = None
) -> tuple[list[RowMapping], str | None]:
    """Return one page of a table with columns created_ms and id, and the token of the next page."""
    listing = table.name if where is None else f"{table.name} {_text(where)}"
    statement = select(table).order_by(table.c.created_ms.desc(), table.c.id.desc()).limit(query.page_size + 1)
    if where is not None:
        statement = statement.where(where)
    if query.page_token is not None:
        created_ms, last_id = _row_position(listing, query.page_token)
        statement = statement.where(tuple_(table.c.created_ms, table.c.id) < tuple_(created_ms, last_id))
    rows = list(connection.execute(statement).mappings())
    page = rows[: query.page_size]
    more = page_token(listing, [page[-1]["created_ms"], page[-1]["id"]]) if len(rows) > len(page) else None
    return page, more


def page_token(listing: str, position: list[int | str]) -> str:
    """Return the token of a position in a list; `listing` names the list with whatever filters it."""
    text = json.dumps([*position, _tag(listing, position)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_page_token(listing: str, token: str) -> list[int | str]:
    """Return the position that a token was made for.

    Raises:
        PageTokenRefused: it was made for another list, or is none of ours.
    """
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        match json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)):
            case [*position, str(tag)] if tag == _tag(listing, position):
                return position
    except (ValueError, binascii.Error, RecursionError):
        pass
    raise refused(token)


def refused(token: str) -> PageTokenRefused:
    """Return the error for a token that names no place in the list."""
    return PageTokenRefused(
        f"page_token must be a next_page_token of this list, with the same filter; got {token[:60]!r} (query). "
        "Start again without it."
    )


def _row_position(listing: str, token: str) -> tuple[int, str]:
    match parse_page_token(listing, token):
        case [int(created_ms), str(last_id)] if type(created_ms) is int and 0 <= created_ms <= LARGEST_INTEGER:
            if _ID.fullmatch(last_id):
                return created_ms, last_id
    raise refused(token)


def _tag(listing: str, position: object) -> str:
    text = json.dumps(["superbatch-page-v1", listing, position])
    return hashlib.sha256(text.encode()).hexdigest()[:_TAG_CHARS]


def _text(where: ColumnElement[bool]) -> str:
    return str(where.compile(compile_kwargs={"literal_binds": True}))
