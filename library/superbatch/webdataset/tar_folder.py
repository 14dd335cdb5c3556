"""A folder of exported tars: what it holds is noted beside them, and each file appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from superbatch.formats.canonical import JsonValue, canonical_json, parse_json
from superbatch.formats.errors import CorruptFile, InvalidInput
from superbatch.formats.json_fields import FORMAT_VERSION
from superbatch.webdataset.layout import TarLayout, tar_name

LAYOUT_NAME = "superbatch.json"
SIZES_NAME = "sizes.json"
"""Rows per tar, where open_clip and others look for the size of a data set."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which log the tars of a folder were written from, and whether they hold `.json` members."""

    job: str
    history_id: str
    with_metadata: bool = False


class TarFolder:
    """The tars of one job and one layout in a local folder; several processes may write the same ones at once.

    Args:
        folder: made when missing.
        layout: how the batches are cut into tars.
        origin: what they are written from.
    Raises:
        InvalidInput: the folder holds tars of another job, history or layout.
        CorruptFile: its superbatch.json cannot be read.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], *, layout: TarLayout, origin: Origin) -> None:
        self.path = Path(folder)
        self.layout = layout
        self.origin = origin
        self.path.mkdir(parents=True, exist_ok=True)
        noted = canonical_json(_fields(layout, origin))
        self._publish(LAYOUT_NAME, lambda file: file.write(noted))
        self._check((self.path / LAYOUT_NAME).read_bytes(), noted)

    def has(self, tar_index: int) -> bool:
        """Claim that a tar is there; a tar that is there is whole."""
        return (self.path / tar_name(tar_index)).exists()

    def put(self, tar_index: int, write: Callable[[BinaryIO], int]) -> int:
        """Write one tar, unless it is there, and return its length in bytes.

        Args:
            tar_index: its index in the layout.
            write: writes the content and returns its length; the same content whoever writes it.
        """
        return self._publish(tar_name(tar_index), write)

    def write_sizes(self) -> None:
        """Write sizes.json: rows per tar, for all tars that are there."""
        names = sorted(path.name for path in self.path.glob("[0-9]*.tar"))
        sizes: dict[str, JsonValue] = dict.fromkeys(names, self.layout.rows_per_tar)
        with _temporary(self.path) as (file, path):
            file.write(canonical_json(sizes))
            file.flush()
            os.replace(path, self.path / SIZES_NAME)

    def _publish(self, name: str, write: Callable[[BinaryIO], int]) -> int:
        """Create a file with what `write` writes, unless it is there: temporary file, fsync, link."""
        if (self.path / name).exists():
            return (self.path / name).stat().st_size
        with _temporary(self.path) as (file, path):
            length = write(file)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(path, self.path / name)
        return length

    def _check(self, found: bytes, wanted: bytes) -> None:
        there, ours = parse_json(found, where=str(self.path / LAYOUT_NAME)), parse_json(wanted, where="layout")
        if not isinstance(there, dict) or not isinstance(ours, dict):
            raise CorruptFile(f"{LAYOUT_NAME} must hold an object ({self.path}). Export into an empty folder.")
        wrong = [name for name in ours if there.get(name) != ours[name]]
        if wrong:
            got = ", ".join(f"{name} {there.get(name)!r} instead of {ours[name]!r}" for name in wrong)
            raise InvalidInput(
                f"a folder holds the tars of one job in one layout; got {got} ({self.path}). "
                "Export into a folder of its own."
            )


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield an open file of its own in `folder`, readable by all, and remove it at the end."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".part-")
    try:
        os.fchmod(descriptor, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            yield file, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _fields(layout: TarLayout, origin: Origin) -> dict[str, JsonValue]:
    return {
        "format_version": FORMAT_VERSION,
        "job": origin.job,
        "history_id": origin.history_id,
        "b": layout.b,
        "world_size": layout.world_size,
        "accumulation": layout.accumulation,
        "with_metadata": origin.with_metadata,
    }
