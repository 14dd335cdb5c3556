"""A bounded folder of batch lists, named by their sha256, shared by any number of processes."""

from __future__ import annotations

import logging
import os
import tempfile
from hashlib import sha256
from pathlib import Path


class ListCache:
    """Keeps the newest lists up to a number of bytes. A file that does not have its digest is treated as missing.

    Several ranks may use one folder: a file appears whole or not at all, and any of them may drop it at any time. A
    folder that cannot be written (a full disk) is no reason to stop a trainer: lists then stay in memory alone, and the
    log says so once.

    Args:
        directory: the folder; it is made where it is missing.
        max_bytes: size of all that is kept, with what a killed process left half written.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int) -> None:
        self._directory = Path(directory)
        self._max_bytes = max_bytes
        self._has_warned = False

    def get(self, sha256_hex: str) -> bytes | None:
        """Return the list with this digest, or None."""
        path = self._path(sha256_hex)
        try:
            data = path.read_bytes()
            if sha256(data).hexdigest() == sha256_hex:
                return data
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
        return None

    def put(self, sha256_hex: str, data: bytes) -> None:
        """Keep a list if the folder takes it, and drop the oldest ones beyond the limit."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._write(self._path(sha256_hex), data)
            self._drop_oldest(kept=self._path(sha256_hex))
        except OSError as error:
            self._warn(error)

    def _write(self, path: Path, data: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".list-", suffix=".parquet")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _path(self, sha256_hex: str) -> Path:
        return self._directory / f"{sha256_hex}.parquet"

    def _drop_oldest(self, *, kept: Path) -> None:
        """Drop files until the rest fits, the oldest first; `kept` counts as the newest, whatever the clock says."""
        found = []
        for path in self._directory.glob("*.parquet"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process dropped it first
                continue
            found.append((path == kept, status.st_mtime_ns, status.st_size, path))
        kept_bytes = 0
        for _, _, size, path in sorted(found, reverse=True):
            kept_bytes += size
            if kept_bytes > self._max_bytes:
                path.unlink(missing_ok=True)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logging.getLogger(__name__).warning(
                "lists cannot be kept in %s (%s); they are fetched anew where they are needed again. "
                "Make room there, or name another cache_dir.",
                self._directory,
                error,
            )
