"""JSON with exactly one spelling per value, so that it can be hashed and written again with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from superbatch.formats.errors import CorruptFile, InvalidInput

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]


def canonical_json(value: JsonValue) -> bytes:
    """Return the one spelling of `value`: keys sorted by code point, no spaces, UTF-8, nothing escaped needlessly.

    Integers have no exponent or fraction; a float is written as the shortest decimal that reads back as the same
    fp64 number (0.8, 1e-07). Strings are not normalised.

    Args:
        value: anything that JSON can hold; keys must be strings.
    Returns:
        UTF-8 bytes without a final newline.
    Raises:
        InvalidInput: NaN or infinity, a key that is no string, an unpaired surrogate, another type.
    Source: design.md section 3.2 (canonical JSON: sorted keys, no spaces).
    """
    try:
        _check_keys(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"canonical JSON holds finite numbers, strings, lists and objects with string keys; {error}. "
            "Replace the value before it is written."
        ) from error


def parse_json(data: bytes | str, *, where: str) -> JsonValue:
    """Return the JSON value that `data` spells, in any spelling.

    Args:
        data: UTF-8 bytes or text.
        where: name of the document, for messages.
    Raises:
        CorruptFile: not JSON, not UTF-8, or nested too deeply.
    """
    try:
        value: JsonValue = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"a document must be JSON in UTF-8; {error} ({where}). Fetch or write it again.") from error
    return value


def _check_keys(value: JsonValue) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"got the key {key!r}")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
