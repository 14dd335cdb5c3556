"""Reads the fields of a JSON object strictly, so that every reader of a document gives the same clear error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from superbatch.formats.canonical import JsonObject, JsonValue, parse_json
from superbatch.formats.errors import CorruptFile, UnsupportedVersion

FORMAT_VERSION = "1.0"
_MAJOR = FORMAT_VERSION.partition(".")[0]
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


class JsonFields:
    """One JSON object with its place in the document; unknown keys are ignored, known ones must have their type."""

    def __init__(self, value: JsonValue, where: str) -> None:
        if not isinstance(value, Mapping):
            raise CorruptFile(f"a JSON object is needed; got {_shown(value)} ({where}). Write the document again.")
        self.value: JsonObject = value
        self.where = where

    def text(self, name: str) -> str:
        """Return a string field."""
        value = self._get(name)
        return value if isinstance(value, str) else self._refuse(name, "a string", value)

    def integer(self, name: str, *, minimum: int = 0) -> int:
        """Return an integer field of at least `minimum`."""
        return self._integer(name, self._get(name), minimum)

    def boolean(self, name: str) -> bool:
        """Return a field that is true or false."""
        value = self._get(name)
        return value if isinstance(value, bool) else self._refuse(name, "true or false", value)

    def number(self, name: str) -> float:
        """Return a finite number."""
        return self._number(name, self._get(name))

    def text_or_object(self, name: str) -> str | JsonObject:
        """Return a string field, or the object that stands in its place (a schedule)."""
        return self.object(name).value if isinstance(self._get(name), Mapping) else self.text(name)

    def number_or_object(self, name: str) -> float | JsonObject:
        """Return a finite number, or the object that stands in its place (a schedule)."""
        return self.object(name).value if isinstance(self._get(name), Mapping) else self.number(name)

    def sha256_hex(self, name: str) -> str:
        """Return a sha256 in 64 lower-case hexadecimal digits."""
        value = self._get(name)
        if isinstance(value, str) and _SHA256_HEX.fullmatch(value):
            return value
        return self._refuse(name, "a sha256 in 64 lower-case hexadecimal digits", value)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return a string field that is one of `choices`."""
        value = self.text(name)
        return value if value in choices else self._refuse(name, f"one of {', '.join(choices)}", value)

    def is_null(self, name: str) -> bool:
        """Claim that an optional field is missing or null."""
        return self.value.get(name) is None

    def optional_text(self, name: str) -> str | None:
        """Return a string field, or None where it is missing or null."""
        return None if self.is_null(name) else self.text(name)

    def optional_integer(self, name: str) -> int | None:
        """Return an integer field of at least 0, or None where it is missing or null."""
        return None if self.is_null(name) else self.integer(name)

    def optional_sha256_hex(self, name: str) -> str | None:
        """Return a sha256 in hexadecimal, or None where it is missing or null."""
        return None if self.is_null(name) else self.sha256_hex(name)

    def object(self, name: str) -> JsonFields:
        """Return the object in a field."""
        return JsonFields(self._get(name), f"{self.where}, field {name}")

    def optional_object(self, name: str) -> JsonFields | None:
        """Return the object in a field, or None where it is missing or null."""
        return None if self.is_null(name) else self.object(name)

    def objects(self, name: str) -> list[JsonFields]:
        """Return a list of objects."""
        return [JsonFields(item, f"{self.where}, {name}[{i}]") for i, item in enumerate(self._items(name))]

    def integers(self, name: str, *, length: int) -> tuple[int, ...]:
        """Return a list of `length` integers of at least 0."""
        return tuple(self._integer(f"{name}[{i}]", item, 0) for i, item in enumerate(self._items(name, length)))

    def numbers(self, name: str, *, length: int) -> tuple[float, ...]:
        """Return a list of `length` finite numbers."""
        return tuple(self._number(f"{name}[{i}]", item) for i, item in enumerate(self._items(name, length)))

    def check_version(self) -> None:
        """Refuse a document of another major version."""
        version = self.text("format_version")
        check_major_version(version, where=self.where)

    def _get(self, name: str) -> JsonValue:
        if name not in self.value:
            raise CorruptFile(f"field {name} must be present; got none ({self.where}). Write the document again.")
        return self.value[name]

    def _items(self, name: str, length: int | None = None) -> Sequence[JsonValue]:
        value = self._get(name)
        if isinstance(value, (list, tuple)) and length in (None, len(value)):
            return value
        return self._refuse(name, "a list" if length is None else f"a list of {length}", value)

    def _integer(self, name: str, value: JsonValue, minimum: int) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        return self._refuse(name, f"an integer of at least {minimum}", value)

    def _number(self, name: str, value: JsonValue) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return value
        return self._refuse(name, "a finite number", value)

    def _refuse(self, name: str, rule: str, value: JsonValue) -> NoReturn:
        raise CorruptFile(f"field {name} must be {rule}; got {_shown(value)} ({self.where}). Write the document again.")


def check_major_version(version: str, *, where: str) -> None:
    """Refuse a file of another major version.

    Args:
        version: "<major>.<minor>"; a newer minor version only adds fields that may be ignored.
        where: name of the document, for messages.
    Raises:
        UnsupportedVersion: another major version.
    """
    if version.partition(".")[0] != _MAJOR:
        raise UnsupportedVersion(
            f"format_version must be {_MAJOR}.x for this reader; got {version!r} ({where}). Install a newer superbatch."
        )


def as_fields(source: JsonObject | bytes | str, *, where: str) -> JsonFields:
    """Return the fields of a document given as JSON text or as an object already parsed."""
    value = parse_json(source, where=where) if isinstance(source, (bytes, str)) else source
    return JsonFields(value, where)


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
