"""Putting a learner's weights into a root, complete or not at all, never over another file."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO

from superbatch.formats.errors import InvalidInput
from superbatch.formats.keys import checked_key

WeightsFile = bytes | str | os.PathLike[str]
"""A safetensors file: its bytes, or its path."""

_LENGTH_BYTES = 8
_TEMPORARY = ".checkpoint-"
_ABANDONED_S = 86_400.0
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, slots=True)
class PushedCheckpoint:
    """A checkpoint that the service took: its id and state there, its trained_seq, key and digest."""

    checkpoint_id: str
    state: str
    trained_seq: int
    key: str
    sha256: str


def opened(weights: WeightsFile) -> AbstractContextManager[BinaryIO]:
    """Return the file, open for reading from its start."""
    return io.BytesIO(weights) if isinstance(weights, bytes) else Path(weights).open("rb")


def check_safetensors(weights: WeightsFile, *, where: str) -> None:
    """Refuse by its first bytes what cannot be a safetensors file; a pickle stops here, before it leaves the trainer.

    Raises:
        InvalidInput: no header of that form.
    """
    with opened(weights) as file:
        start = file.read(_LENGTH_BYTES + 1)
        size_bytes = file.seek(0, io.SEEK_END)
    header_stop = _LENGTH_BYTES + int.from_bytes(start[:_LENGTH_BYTES], "little")
    if size_bytes < _LENGTH_BYTES + 2 or header_stop > size_bytes or start[_LENGTH_BYTES:] != b"{":
        kind = ", as torch.save writes them" if start.startswith(_PICKLE_STARTS) else ""
        got = f"{size_bytes} bytes that begin with {start[:8].hex(' ')}{kind}"
        raise InvalidInput(
            f"a checkpoint must be a safetensors file; got {got} "
            f"({where}). Make it with superbatch.checkpoints.learner_weights(model), or `superbatch convert FILE.pt`."
        )


def place_checkpoint(weights: WeightsFile, root_path: str | os.PathLike[str], *, key: str) -> str:
    """Write `weights` as the object `key` below a root: temporary file, fsync, link, fsync of the folder.

    Readers see the whole file or none. An object that is there with the same bytes is left alone.

    Args:
        weights: the file, as bytes or by path.
        root_path: local path of the root.
        key: path inside the root.
    Returns:
        sha256 of the content, 64 hexadecimal digits.
    Raises:
        InvalidInput: a key that could leave the root, or one that holds other bytes already.
        OSError: the folder cannot be written.
    """
    path = Path(root_path) / checked_key(key, where="checkpoint")
    digest = file_sha256(weights)
    if not path.exists():
        _publish(weights, path)
    if file_sha256(path) != digest:
        raise InvalidInput(
            f"a published file is never overwritten; {key!r} holds other bytes ({root_path}). Use a key of its own."
        )
    return digest


def file_sha256(weights: WeightsFile) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    with opened(weights) as file:
        return file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # any binary file is what it takes


def _publish(weights: WeightsFile, path: Path) -> None:
    """Create `path` with this content unless somebody else created it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(descriptor, "wb") as file, opened(weights) as source:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        _sync_folder(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what writers left that were killed: temporary files that nobody has written to for a day."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
