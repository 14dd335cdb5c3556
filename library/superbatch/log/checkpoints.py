"""Putting a learner's weights into a root, complete or not at all, never over another file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from superbatch.formats.errors import InvalidInput
from superbatch.formats.keys import checked_key

_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class PushedCheckpoint:
    """A checkpoint that the service took: its id and state there, its trained_seq, key and digest."""

    checkpoint_id: str
    state: str
    trained_seq: int
    key: str
    sha256: str


def check_safetensors(weights: bytes, *, where: str) -> None:
    """Refuse bytes that cannot be a safetensors file; a pickle stops here, before it leaves the trainer.

    Raises:
        InvalidInput: no header of that form.
    """
    length = int.from_bytes(weights[:_LENGTH_BYTES], "little")
    header_stop = _LENGTH_BYTES + length
    if (
        len(weights) < _LENGTH_BYTES + 2
        or header_stop > len(weights)
        or weights[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{"
    ):
        raise InvalidInput(
            f"a checkpoint must be a safetensors file; got {len(weights)} bytes that begin with {weights[:8].hex(' ')} "
            f"({where}). Save the model's state dict with safetensors.torch.save_file."
        )


def place_checkpoint(weights: bytes, root_path: str | os.PathLike[str], *, key: str) -> str:
    """Write `weights` as the object `key` below a root: temporary file, fsync, link, fsync of the folder.

    Readers see the whole file or none. An object that is there with the same bytes is left alone.

    Args:
        weights: content of the file.
        root_path: local path of the root.
        key: path inside the root.
    Returns:
        sha256 of the content, 64 hexadecimal digits.
    Raises:
        InvalidInput: a key that could leave the root, or one that holds other bytes already.
        OSError: the folder cannot be written.
    """
    path = Path(root_path) / checked_key(key, where="checkpoint")
    digest = sha256(weights).hexdigest()
    if not path.exists():
        _publish(weights, path)
    with path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise InvalidInput(
            f"a published file is never overwritten; {key!r} holds other bytes ({root_path}). Use a key of its own."
        )
    return digest


def _publish(weights: bytes, path: Path) -> None:
    """Create `path` with this content unless somebody else created it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".checkpoint-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(weights)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        _sync_folder(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
