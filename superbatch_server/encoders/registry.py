"""The families of encoders, by the name a model is registered under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from superbatch.formats.errors import InvalidInput
from superbatch_server.encoders import tiny
from superbatch_server.encoders.protocol import DualEncoder

Loader = Callable[..., DualEncoder]

# To add a family: one file beside tiny.py with ROLES and a `load` of the same signature, and one line in both tables.
_ROLES: Mapping[str, frozenset[str]] = {"tiny": tiny.ROLES}
_LOADERS: Mapping[str, Loader] = {"tiny": tiny.load}


def load_encoder(family: str, files: Mapping[str, Path], *, threads: int, dtype: str = "float32") -> DualEncoder:
    """Return the encoder of one registered model, ready to encode in this process.

    Args:
        family: a name of `families()`.
        files: a local file per role; the roles must be exactly the family's.
        threads: threads of one forward, part of the numerics profile.
        dtype: what the towers compute in: float32 or bfloat16.
    Raises: InvalidInput for an unknown family, wrong roles, threads or dtype, or for files that make no model
        (InvalidWeights, InvalidConfig, InvalidTokenizer).
    """
    if family not in _LOADERS:
        raise InvalidInput(f"family must be one of {families()}; got {family!r}.")
    if set(files) != _ROLES[family]:
        raise InvalidInput(
            f"a model of family {family!r} must have the files {sorted(_ROLES[family])}; got {sorted(files)}."
        )
    return _LOADERS[family](files, threads=threads, dtype=dtype)


def families() -> list[str]:
    """Return the names of all families, sorted."""
    return sorted(_LOADERS)
