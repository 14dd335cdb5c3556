"""Where the service is, and the token it takes.

In this order: --url and --token-file; SUPERBATCH_URL and SUPERBATCH_TOKEN; what `superbatch serve` left in its data
directory (--data-dir, SUPERBATCH_DATA_DIR, else ~/.local/share/superbatch).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from superbatch.cli.errors import NoService
from superbatch.formats.errors import CorruptFile
from superbatch.formats.json_fields import as_fields

SERVICE_FILE = "service.json"
TOKEN_FILE = "token"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Connection:
    """An address without a final slash, and the bearer token."""

    url: str
    token: str = field(repr=False)

    @property
    def is_local(self) -> bool:
        """True when the service runs on this machine, so that no proxy stands between."""
        return urlsplit(self.url).hostname in _LOOPBACK


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command which talks to the service takes."""
    group = parser.add_argument_group("the service")
    group.add_argument("--url", help="its address (else SUPERBATCH_URL, else the one running from the data directory)")
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file that holds the token (else SUPERBATCH_TOKEN)"
    )
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="data directory of `superbatch serve`")


def find_connection(options: argparse.Namespace, environment: Mapping[str, str]) -> Connection:
    """Return where to connect to.

    The token of the data directory is sent to the service of the data directory or of this machine only, never to
    another host that --url or SUPERBATCH_URL names.
    Raises: NoService.
    """
    data_dir = options.data_dir or default_data_dir(environment)
    running = _running_url(data_dir / SERVICE_FILE)
    url = (options.url or environment.get("SUPERBATCH_URL") or running or "").rstrip("/")
    if not url:
        raise NoService(
            f"a running service is needed; none is noted in {data_dir}. "
            "Start one with `superbatch serve`, or give --url and --token-file."
        )
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise NoService(f"--url must be like http://127.0.0.1:8600; got {url!r}.")
    if options.token_file is not None:
        return Connection(url, _token(options.token_file))
    if token := environment.get("SUPERBATCH_TOKEN"):
        return Connection(url, token)
    connection = Connection(url, "")
    if url == running or connection.is_local:
        return Connection(url, _token(data_dir / TOKEN_FILE))
    raise NoService(f"a token is needed for {url}; got none. Give --token-file, or set SUPERBATCH_TOKEN.")


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Return the data directory that `superbatch serve` takes by default."""
    named = environment.get("SUPERBATCH_DATA_DIR")
    return Path(named) if named else Path.home() / ".local" / "share" / "superbatch"


def _running_url(path: Path) -> str | None:
    try:
        return as_fields(path.read_bytes(), where=str(path)).text("url").rstrip("/")
    except (OSError, CorruptFile):
        return None


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NoService(f"the token must be readable; got {error}. Is the service running as another user?") from error
    if not token or not token.isascii() or any(char.isspace() for char in token):
        raise NoService(
            f"a token file must hold one word; {path} does not. Name the file that `superbatch serve` wrote."
        )
    return token
