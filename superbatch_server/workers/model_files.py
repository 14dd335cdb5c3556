"""Model files from their roots to this machine, each checked against its digest, and the encoders made of them."""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from superbatch.formats.errors import DigestMismatch
from superbatch_server.encoders.protocol import DualEncoder
from superbatch_server.encoders.registry import load_encoder
from superbatch_server.schemas.models import FileRef, Model
from superbatch_server.storage.roots import Root, find_root

_READ_BYTES = 1 << 20
_KEPT_ENCODERS = 2  # the checkpoint in use and its successor


@dataclass(frozen=True)
class EncoderFiles:
    """Everything an encoder is made of."""

    family: str
    files: tuple[FileRef, ...]


def model_files(model: Model, *, weights: FileRef | None = None) -> EncoderFiles:
    """Return the files of a registered model, its weights replaced by those of a checkpoint where one is given."""
    own = [file for file in model.manifest.files if weights is None or file.role != "weights"]
    files = sorted([*own, *([weights] if weights else [])], key=lambda file: file.role)
    return EncoderFiles(model.manifest.family, tuple(files))


class EncoderShelf:
    """Loads encoders and keeps the newest ones; one per process.

    Files are copied to `folder` under their digest before they are read, so that what was checked is what is loaded.
    """

    def __init__(self, roots: Mapping[str, Root], *, folder: Path, threads: int, dtype: str) -> None:
        self._roots = roots
        self._folder = folder
        self._threads = threads
        self._dtype = dtype
        self._encoders: OrderedDict[EncoderFiles, DualEncoder] = OrderedDict()

    def get(self, wanted: EncoderFiles) -> DualEncoder:
        """Return the encoder of these files.

        Raises: DigestMismatch, ObjectMissing, UnknownRoot, Unavailable for the files; InvalidInput from the loader.
        """
        if wanted not in self._encoders:
            paths: dict[str, Path] = {
                file.role: fetch_file(self._roots, file, folder=self._folder) for file in wanted.files
            }
            self._encoders[wanted] = load_encoder(wanted.family, paths, threads=self._threads, dtype=self._dtype)
        self._encoders.move_to_end(wanted)
        while len(self._encoders) > _KEPT_ENCODERS:
            self._encoders.popitem(last=False)
        return self._encoders[wanted]


def fetch_file(roots: Mapping[str, Root], file: FileRef, *, folder: Path) -> Path:
    """Return a local copy of a file, made once.

    Raises: DigestMismatch when the file is not the registered one; ObjectMissing, UnknownRoot, Unavailable.
    """
    copy = folder / file.sha256
    if copy.is_file():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{file.sha256}.{secrets.token_hex(8)}"
    try:
        found = _copy(find_root(roots, file.root), file.key, partial)
        if found != file.sha256:
            raise DigestMismatch(
                f"a file must be the registered one; got sha256 {found} instead of {file.sha256} "
                f"(root {file.root}, key {file.key!r}). Put the old file back, or register the new one."
            )
        os.replace(partial, copy)
    finally:
        partial.unlink(missing_ok=True)
    return copy


def _copy(root: Root, key: str, path: Path) -> str:
    digest = sha256()
    with root.open(key) as source, path.open("xb") as target:
        while part := source.read(_READ_BYTES):
            digest.update(part)
            target.write(part)
    return digest.hexdigest()
