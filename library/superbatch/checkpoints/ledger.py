"""What was done with the files of a watched folder: a line per file, on disk before the next file is looked at."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file and its sidecar as they were: where either is written again the stamp is another one."""

    name: str
    size_bytes: int
    mtime_ns: int
    sidecar_mtime_ns: int = 0
    """0 without a sidecar."""

    @staticmethod
    def of(path: Path, *, sidecar: Path) -> FileStamp:
        """Return the stamp of a file. Raises: OSError."""
        stat = path.stat()
        try:
            sidecar_mtime_ns = sidecar.stat().st_mtime_ns
        except FileNotFoundError:
            sidecar_mtime_ns = 0
        return FileStamp(path.name, stat.st_size, stat.st_mtime_ns, sidecar_mtime_ns)


class Ledger:
    """The files that are done with. A line that a crash tore off counts as not written: its file is pushed once more,
    which the service takes for the same checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done = set(_stamps(path))

    def is_done(self, stamp: FileStamp) -> bool:
        """Claim that this very file was pushed or refused before."""
        return stamp in self._done

    def add(self, stamp: FileStamp, outcome: str) -> None:
        """Note a file and what came of it; returns when that is on the disk."""
        line = {**asdict(stamp), "outcome": outcome}
        with self._path.open("ab") as file:
            if file.tell() and not _ends_a_line(self._path):
                file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._done.add(stamp)


def _stamps(path: Path) -> list[FileStamp]:
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            fields = json.loads(line)
            times = int(fields["mtime_ns"]), int(fields.get("sidecar_mtime_ns", 0))
            found.append(FileStamp(str(fields["name"]), int(fields["size_bytes"]), *times))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
