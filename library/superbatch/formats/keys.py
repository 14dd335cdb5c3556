"""Object keys: relative paths that cannot leave their root."""

from __future__ import annotations

import re

from superbatch.formats.errors import InvalidInput

_DRIVE = re.compile(r"[A-Za-z]:")


def checked_key(key: str, *, where: str) -> str:
    """Return `key` unchanged if it names something below a root.

    A key is a relative path with `/` between non-empty parts, none of them `.` or `..`; no backslash, no control
    character, no lone surrogate, no drive letter.

    Args:
        key: path inside a root.
        where: who names it, for messages.
    Raises:
        InvalidInput: the key could leave its root or is no such path.
    """
    parts = key.split("/")
    is_safe = (
        not any(part in ("", ".", "..") for part in parts)
        and "\\" not in key
        and not _DRIVE.match(key)
        and not any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in key)
    )
    if not is_safe:
        raise InvalidInput(
            f"a key must be a relative path without '.', '..' or empty parts; got {key!r} ({where}). "
            "Name the object relative to its root, for example 'pool/000000.tar'."
        )
    return key
