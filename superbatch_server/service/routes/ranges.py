"""Range headers (RFC 9110): single byte ranges; anything else is answered with the whole file, as the RFC allows."""

from __future__ import annotations

import re

_SINGLE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


class NoSuchRange(Exception):
    """The range names no byte of the file."""


def wanted_range(header: str | None, size: int) -> range | None:
    """Return the bytes that a Range header asks for, None for the whole file.

    Raises:
        NoSuchRange: a well-formed range without a byte of the file.
    """
    found = _SINGLE.fullmatch(header or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < start:
        return None
    if start >= stop:
        raise NoSuchRange
    return range(start, stop)
