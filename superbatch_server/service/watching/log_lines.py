"""What the API and the supervisor log: one line per event, as text or as JSON, without a secret in it.

The standard library's logging with a formatter of our own: what a logging library would add (renderers, bound loggers)
is not needed for one line per request, and everything that Uvicorn, SQLAlchemy and Alembic log passes through the same
formatter, so that nothing goes out unredacted.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO
from urllib.parse import unquote

from pydantic import SecretStr

if TYPE_CHECKING:
    from superbatch_server.service.settings import Settings

HIDDEN = "***"
_SHORTEST_SECRET = 6
_NO_CONTEXT: dict[str, str] = {}
_context: ContextVar[dict[str, str]] = ContextVar("superbatch_log_context", default=_NO_CONTEXT)

_SECRET_NAME = (
    r"(?:token|secret|password|passwd|passphrase|signature|credentials?|(?:api|access|secret|private|signing)[_-]?key)"
)
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(authorization|cookie|set-cookie)(['\"]?\s*[:=]\s*)[^\r\n]+"), rf"\1\2{HIDDEN}"),
    (
        re.compile(
            rf"(?i)({_SECRET_NAME}\\?['\"]?[ \t]*[:=]|(?<![\w-])code\\?['\"]?[ \t]*=)([ \t]*\\?)"
            r"(?:\"[^\"\r\n]*\"?|'[^'\r\n]*'?|[^\s&\"',;)#]+)"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\bsbt_[A-Za-z0-9_-]+"), HIDDEN),
    (re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,31}://[^\s/:@\"']{0,256}):[^\s\"']{1,1024}@"), rf"\1:{HIDDEN}@"),
)
"""Headers with credentials; `name=value` and `name: value` where the name ends like that of a secret, as in query
strings, DSNs, settings and JSON; access tokens; passwords in URLs. Login codes are a query's `code`.

Each pattern takes a time linear in the text: a name's beginning is not matched, and what may be long before it fails is
bounded.
"""

_LONGEST_TEXT = 8 << 10
_LONGEST_FAULT = 32 << 10
_PLAIN = re.compile(r"[\w./:-]+", re.ASCII)
_HIDING = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Controls, direction marks, invisible characters and lone surrogates: what ends a line, hides text or turns it."""


@contextmanager
def log_context(**fields: str | int | None) -> Iterator[None]:
    """Give every line that is logged inside these fields: request, job, attempt."""
    named = {name: str(value) for name, value in fields.items() if value is not None}
    token = _context.set({**_context.get(), **named})
    try:
        yield
    finally:
        _context.reset(token)


def current_request_id() -> str | None:
    """Return the id of the request that is being answered."""
    return _context.get().get("request_id")


class Redactor:
    """Takes secrets out of text: those that it is told, and what looks like one."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._secrets = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return the text with every secret hidden."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


class LineFormatter(logging.Formatter):
    """One record as one line of text or JSON, with the fields of its context."""

    def __init__(self, form: Literal["text", "json"], redactor: Redactor) -> None:
        super().__init__()
        self._form = form
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given: dict[str, object] = getattr(record, "fields", {})
        fields = {name: self._clean(value) for name, value in {**_context.get(), **given}.items()}
        message = self._redactor.redact(_beginning(record.getMessage()))
        fault = self._redactor.redact(_end_of(traceback.format_exception(*record.exc_info))) if record.exc_info else ""
        if self._form == "text":
            named = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
            line = _escaped(f"{at} {record.levelname} {record.name} {message}  {named}".rstrip())
            return "\n  ".join([line, *(_escaped(part) for part in fault.rstrip().split("\n") if part)])
        body = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": message, **fields}
        return _escaped(json.dumps(body | ({"error": fault} if fault else {}), ensure_ascii=False, default=str))

    def _clean(self, value: object) -> object:
        return self._redactor.redact(_beginning(value)) if isinstance(value, str) else value


def _beginning(text: str) -> str:
    """Return what is logged of a text; it is cut between words, so that no half of a secret is left."""
    if len(text) <= _LONGEST_TEXT:
        return text
    words = text[:_LONGEST_TEXT].rsplit(None, 1)
    return f"{words[0]} ... ({len(text)} characters)"


def _end_of(parts: Sequence[str]) -> str:
    """Return what is logged of a traceback: its last lines, where the error stands."""
    text = "".join(parts)
    if len(text) <= _LONGEST_FAULT:
        return text
    _, _, lines = text[-_LONGEST_FAULT:].partition("\n")
    return f"({len(text)} characters) ...\n{lines}"


def _quoted(value: object) -> str:
    """Return a field's value in a line of text: one that could be taken for another field stands in quotes."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """Return a text in which every character that could hide something is written as JSON does."""
    return _HIDING.sub(lambda found: json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f", text)


def set_up_logging(settings: Settings, *, token: str | None = None, stream: TextIO | None = None) -> None:
    """Send what this process logs to standard error in the form that the settings choose; called by mains only."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(LineFormatter(settings.log_format, Redactor(secrets_of(settings, token))))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("superbatch").setLevel(settings.log_level.upper())
    logging.captureWarnings(True)


def secrets_of(settings: Settings, token: str | None) -> list[str]:
    """Return every secret that the settings hold, whole and, for a database URL, its password alone."""
    found = [] if token is None else [token]
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
    written = [match[1] for text in found if (match := re.search(r"://[^/@:]*:(.+)@", text))]
    return [*found, *written, *map(unquote, written)]
