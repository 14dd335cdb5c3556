"""What a deployment keeps in its data directory beside the catalog: the lock, the user's token, the present address."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from superbatch_server.service.settings import secret_of

TOKEN_FILE = "token"
SERVICE_FILE = "service.json"
LOCK_FILE = "serve.lock"
_UNCLEAN_WAIT_S = 3.0


class CannotServe(Exception):
    """The service cannot start here; the message says why and what to do."""


@contextlib.contextmanager
def data_dir_lock(data_dir: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the data directory, created private if it is missing: for one whole service, or `shared` by its parts."""
    with usable(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(data_dir)
        lock_file = (data_dir / LOCK_FILE).open("a")
    with lock_file as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotServe(
                f"one service may run on a data directory; {data_dir} is served already{_by_whom(data_dir)}. "
                "Stop that one, or name another directory with --data-dir."
            ) from None
        yield


def _close_to_others(data_dir: Path) -> None:
    """Make a directory that was there before private; one that is shared, or another's, is left as it is and named."""
    found = data_dir.stat()
    if not stat.S_IMODE(found.st_mode) & 0o077:
        return
    if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
        data_dir.chmod(0o700)
        return
    print(
        f"superbatch serve: the data directory should be open to its owner only; got mode "
        f"{stat.S_IMODE(found.st_mode):04o} of user {found.st_uid} ({data_dir}). The catalog and what jobs read lie "
        "there: give the service a directory of its own with --data-dir.",
        file=sys.stderr,
        flush=True,
    )


def make_token(data_dir: Path, token_file: Path | None = None) -> None:
    """Make the deployment's token at the first start, readable by its owner only; a later start keeps it.

    A file outside the data directory is a secret that was mounted: it is never written.
    """
    path = token_file or data_dir / TOKEN_FILE
    if path.exists():
        return
    if path.parent != data_dir:
        raise CannotServe(
            f"the file of the token must be there; got {path} (SUPERBATCH_TOKEN_FILE). "
            "Mount the secret, or leave the setting out and a token is made in the data directory."
        )
    with usable(data_dir):
        write_private(path, secrets.token_urlsafe(32) + "\n")


def read_token(data_dir: Path, token_file: Path | None = None) -> str:
    """Return the deployment's token; raise ValueError when its file holds none."""
    return secret_of(token_file or data_dir / TOKEN_FILE, setting="token_file")


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable by its owner only."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def usable(data_dir: Path) -> Iterator[None]:
    """Raise CannotServe where the data directory cannot be used: a full disk, no permission, a file in its place."""
    try:
        yield
    except OSError as error:
        raise CannotServe(
            f"the data directory must be writable and have room; got {error.strerror!r} "
            f"({error.filename or data_dir}). Make room on its disk or correct its permissions, or name another "
            "directory with --data-dir."
        ) from error


@contextlib.contextmanager
def announced(data_dir: Path, *, url: str) -> Iterator[None]:
    """Keep `service.json`, from which the command line learns the address, while the service runs."""
    path = data_dir / SERVICE_FILE
    with usable(data_dir):
        write_private(path, json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def listen(host: str, port: int, *, data_dir: Path) -> socket.socket:
    """Return a listening socket; after an unclean end the children of the last service get a moment to let go."""
    deadline = time.monotonic() + (_UNCLEAN_WAIT_S if (data_dir / SERVICE_FILE).exists() else 0.0)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            if time.monotonic() >= deadline:
                raise CannotServe(
                    f"the service must be able to listen on {host}:{port}; {error.strerror} (settings host and port). "
                    "Choose another with --port, or --port 0 for any free one."
                ) from error
            time.sleep(0.1)


def _by_whom(data_dir: Path) -> str:
    try:
        found = json.loads((data_dir / SERVICE_FILE).read_text(encoding="utf-8"))
        return f" at {found['url']} by process {found['pid']}"
    except (OSError, ValueError, KeyError):
        return ""
