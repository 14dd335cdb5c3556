"""Where a URL points: a folder of this machine, or an object store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from superbatch.formats.errors import InvalidInput
from superbatch.formats.keys import checked_key
from superbatch_server.schemas.errors import UnsafeKey

REMOTE_SCHEMES = ("s3", "gs", "az", "memory")


def local_folder(url: str) -> Path | None:
    """Return the absolute folder that a plain path or a `file://` URL names; None for an object store.

    Raises:
        InvalidInput: another scheme, or a `file://` URL with a host.
    """
    parts = urlsplit(url)
    if "://" not in url:
        return Path(url).expanduser().absolute()
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path)).absolute()
    if parts.scheme in REMOTE_SCHEMES:
        return None
    raise InvalidInput(
        f"a place must be a path or a URL of file://, {'://, '.join(REMOTE_SCHEMES)}://; got {url!r} (settings). "
        "A folder of this machine is written file:///absolute/path."
    )


def require_safe(key: str, *, where: str) -> str:
    """Return the key, or raise UnsafeKey when it is not a relative path below a root."""
    try:
        return checked_key(key, where=where)
    except InvalidInput as error:
        raise UnsafeKey(str(error)) from error
