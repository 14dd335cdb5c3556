"""How bodies are kept in Text columns: as canonical JSON, so that equal bodies are equal texts."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from superbatch.formats.canonical import JsonValue, canonical_json


def stored(body: BaseModel | JsonValue) -> str:
    """Return the canonical text of a schema's model or of a JSON value."""
    value = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
    return canonical_json(value).decode()


def stored_all(bodies: Sequence[BaseModel]) -> str:
    """Return the canonical text of a list of models."""
    return stored([body.model_dump(mode="json") for body in bodies])
