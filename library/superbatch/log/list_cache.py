"""A bounded folder of batch lists, named by their sha256, shared by any number of processes."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path


class ListCache:
    """Keeps the newest lists up to a number of bytes. A file that does not have its digest is treated as missing."""

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int) -> None:
        self._directory = Path(directory)
        self._max_bytes = max_bytes
        self._directory.mkdir(parents=True, exist_ok=True)

    def get(self, sha256_hex: str) -> bytes | None:
        """Return the list with this digest, or None."""
        path = self._path(sha256_hex)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if sha256(data).hexdigest() == sha256_hex:
            return data
        path.unlink(missing_ok=True)
        return None

    def put(self, sha256_hex: str, data: bytes) -> None:
        """Keep a list, and drop the oldest ones beyond the limit."""
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".list-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, self._path(sha256_hex))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._drop_oldest()

    def _path(self, sha256_hex: str) -> Path:
        return self._directory / f"{sha256_hex}.parquet"

    def _drop_oldest(self) -> None:
        found = []
        for path in self._directory.glob("*.parquet"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process dropped it first
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        kept_bytes = 0
        for _, size, path in sorted(found, reverse=True):
            kept_bytes += size
            if kept_bytes > self._max_bytes:
                path.unlink(missing_ok=True)
