"""From a local folder to (root, key): data is named inside named roots, which are a setting of the deployment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from superbatch.cli.client import Service
from superbatch.cli.errors import CommandError
from superbatch.cli.text import shown

UPLOADS_ROOT = "uploads"
"""The service's own root, for uploaded checkpoints; no other may have this name."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root of the deployment; `directory` is None where it is no local folder."""

    name: str
    directory: Path | None

    def key_of(self, path: Path) -> str | None:
        """Return the key of `path` in this root, or None where it lies outside; the root itself is ''."""
        if self.directory is None or not path.is_relative_to(self.directory):
            return None
        key = path.relative_to(self.directory).as_posix()
        return "" if key == "." else key


def list_roots(service: Service) -> list[Root]:
    """Return the roots of the service."""
    roots = service.items("/v1/roots", "roots")
    return [Root(root.text("name"), local_directory(root.text("url"))) for root in roots]


def local_directory(url: str) -> Path | None:
    """Return the folder that a root's URL names on this machine, or None for an object store."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.hostname in (None, "localhost"):
        return Path(unquote(parts.path)).resolve()
    return Path(url).resolve() if url.startswith("/") else None


def root_of(directory: Path, roots: Sequence[Root]) -> tuple[Root, str]:
    """Return the innermost root that contains a folder, and the folder's key in it.

    Raises: CommandError with the one line to add when no root contains it.
    """
    directory = directory.resolve()
    found = [(root, key) for root in roots if (key := root.key_of(directory)) is not None]
    if not found:
        name = _free_name(directory, {root.name for root in roots} | {UPLOADS_ROOT})
        setting = shlex.quote(f"{name}={shown(str(directory))}")
        raise CommandError(
            f"a folder must lie in a root of the service; {shown(str(directory))} lies in none "
            f"({', '.join(root.name for root in roots) or 'it has no roots'}). Start the service "
            f"again, with the roots it has and this one:\n    superbatch serve ... --root {setting}"
        )
    return min(found, key=lambda pair: len(pair[1]))


def _free_name(directory: Path, taken: set[str]) -> str:
    """Return a name that a new root of that folder may have."""
    name = re.sub(r"[^a-z0-9_-]+", "-", directory.name.lower()).strip("-_")
    name = (name if name[:1].isalpha() else f"data-{name}".rstrip("-"))[:59]
    return next(free for free in (name, *(f"{name}-{number}" for number in range(2, 1000))) if free not in taken)


def named_root(name: str, roots: Sequence[Root]) -> Root:
    """Return the root of that name. Raises: CommandError."""
    for root in roots:
        if root.name == name:
            return root
    raise CommandError(
        f"--root must name a root of the service; got {name!r}, known: {', '.join(r.name for r in roots)}."
    )


def in_folder(folder_key: str, name: str) -> str:
    """Return the key of `name` in the folder with that key; '' is the root itself."""
    return f"{folder_key.rstrip('/')}/{name}" if folder_key else name
