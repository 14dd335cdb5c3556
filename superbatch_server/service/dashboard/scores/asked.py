"""What the address of a page asks for."""

from __future__ import annotations

from collections.abc import Mapping

from superbatch_server.schemas.errors import Validation
from superbatch_server.service.catalog.pages import LARGEST_INTEGER


def whole(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of at least 0, None where none is given.

    Raises: Validation for anything else.
    """
    text = query.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST_INTEGER):
        raise Validation(
            f"{name} must be a whole number of at least 0; got {text[:40]!r} (query). Correct the address."
        )
    return int(text)
