"""Text in a field of a JSON document."""

from __future__ import annotations

import json

from superbatch.formats.errors import UnreadableExample


def text_in(document: bytes, field: str, index: int | None, *, where: str) -> bytes:
    """Return the UTF-8 of a field.

    A field is the name of a member, or else names with dots between them: with {"meta": {"caption": "a cat"}},
    "meta.caption" is "a cat".

    Args:
        document: a JSON object in UTF-8.
        field: name of the field.
        index: which entry, where the field is a list; None for the first.
        where: what the document belongs to, for messages.
    Raises:
        UnreadableExample: no JSON, no such field or entry, no text in it.
    """
    try:
        value = _member(json.loads(document), field)
        text = value[index or 0] if isinstance(value, list) else value
        if not isinstance(text, str):
            raise TypeError(f"a {type(text).__name__} stands there")
        return text.encode("utf-8")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnreadableExample(f"text must stand in the JSON field {field!r}; {error!r} ({where}).") from error


def _member(document: object, field: str) -> object:
    if not isinstance(document, dict):
        raise TypeError(f"a {type(document).__name__} stands where an object with {field!r} belongs")
    if field in document:
        return document[field]
    name, dot, rest = field.partition(".")
    if not dot:
        raise KeyError(field)
    return _member(document[name], rest)
