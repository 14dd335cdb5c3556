"""The folders of an attempt on this machine: short paths, and nothing left of earlier attempts."""

from __future__ import annotations

import shutil
from pathlib import Path

from superbatch_server.storage.scratch_names import ray_folder, scratch_name


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
        return self._base / scratch_name(self._job, token)

    def _ray_folder(self, token: int) -> Path:
        return ray_folder(self._base, self._job, token)
