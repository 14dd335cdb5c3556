"""One-time codes for the dashboard: a file per code, named by its digest, that only the owner may read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

CODE_S = 24 * 3600
FOLDER = "login-codes"


def new_login_code(data_dir: Path) -> str:
    """Return a code that `GET /login?code=` exchanges for a cookie once, within a day."""
    code = secrets.token_urlsafe(32)
    folder = data_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_old(folder)
    os.close(os.open(_path(data_dir, code), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return code


def redeem_login_code(data_dir: Path, code: str) -> bool:
    """Return whether the code was made here, is fresh and was not used; it is used up now."""
    path = _path(data_dir, code)
    try:
        made_s = path.stat().st_mtime
        path.unlink()  # of two that come with one code only one succeeds here
    except FileNotFoundError:
        return False
    return time.time() - made_s < CODE_S


def _remove_old(folder: Path) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # used in this moment
            if time.time() - path.stat().st_mtime >= CODE_S:
                path.unlink()


def _path(data_dir: Path, code: str) -> Path:
    return data_dir / FOLDER / hashlib.sha256(code.encode()).hexdigest()
