"""How the scratch folders of attempts are named: short, because Ray puts sockets into them."""

from __future__ import annotations

import re
import tempfile
from hashlib import sha256
from pathlib import Path

SCRATCH_NAME = re.compile(r"[0-9a-f]{8}-\d{1,18}")

_LONGEST_RAY_DIR = 40
"""Ray adds about 65 characters to its folder for a socket, whose address has at most 107."""


def scratch_name(job: str, token: int) -> str:
    """Return the name of an attempt's folder in the scratch directory."""
    return f"{sha256(job.encode()).hexdigest()[:8]}-{token}"


def ray_folder(scratch_dir: Path, job: str, token: int) -> Path:
    """Return Ray's folder: below the attempt's where the path is short enough, else in the system's temporary one."""
    inside = scratch_dir / scratch_name(job, token) / "ray"
    if len(str(inside)) <= _LONGEST_RAY_DIR:
        return inside
    name = sha256(f"{scratch_dir}\0{job}\0{token}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"sbray-{name}"
