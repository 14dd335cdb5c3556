"""The folders of an attempt on this machine: short paths, and nothing left of earlier attempts."""

from __future__ import annotations

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

_LONGEST_RAY_DIR = 40
"""Ray adds about 65 characters to its folder for a socket, whose address has at most 107."""


class Scratch:
    """Where one attempt keeps model files, counts of tries, and Ray its own."""

    def __init__(self, scratch_dir: str, *, job: str, token: int) -> None:
        self._base, self._job, self._token = Path(scratch_dir), job, token

    @property
    def folder(self) -> Path:
        """The attempt's folder."""
        return self._folder(self._token)

    @property
    def ray_folder(self) -> Path:
        """Ray's folder: below the attempt's where the path is short enough, else in the system's temporary one."""
        return self._ray_folder(self._token)

    def prepare(self) -> None:
        """Create the folders, and remove those of the job's earlier attempts, which were fenced off."""
        for token in range(max(1, self._token - 20), self._token):
            self._remove(token)
        self.folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove both folders."""
        self._remove(self._token)

    def _remove(self, token: int) -> None:
        shutil.rmtree(self._ray_folder(token), ignore_errors=True)
        shutil.rmtree(self._folder(token), ignore_errors=True)

    def _folder(self, token: int) -> Path:
        return self._base / f"{sha256(self._job.encode()).hexdigest()[:8]}-{token}"

    def _ray_folder(self, token: int) -> Path:
        inside = self._folder(token) / "ray"
        if len(str(inside)) <= _LONGEST_RAY_DIR:
            return inside
        name = sha256(f"{self._base}\0{self._job}\0{token}".encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"sbray-{name}"
