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

from pydantic import SecretStr

if TYPE_CHECKING:
    from superbatch_server.service.settings import Settings

HIDDEN = "***"
_SHORTEST_SECRET = 6
_NO_CONTEXT: dict[str, str] = {}
_context: ContextVar[dict[str, str]] = ContextVar("superbatch_log_context", default=_NO_CONTEXT)

_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(authorization|cookie|set-cookie)(['\"]?\s*[:=]\s*)[^\r\n]+"), rf"\1\2{HIDDEN}"),
    (
        re.compile(
            r"(?i)\b([a-z0-9_-]*(?:token|secret|password|passwd|api[_-]?key|signature|credential)|(?<![\w-])code)"
            r"(['\"]?\s*=\s*['\"]?)[^\s&\"',;)#]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\bsbt_[A-Za-z0-9_-]+"), HIDDEN),
    (re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@\"']*):[^\s@\"']+@"), rf"\1:{HIDDEN}@"),
)
"""Headers with credentials; `name=value` where the name is that of a secret, as in query strings and DSNs; access
tokens; passwords in URLs. Login codes are a query's `code`."""


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
        fields = {**_context.get(), **given}
        message = self._redactor.redact(record.getMessage())
        fault = self._redactor.redact("".join(traceback.format_exception(*record.exc_info))) if record.exc_info else ""
        if self._form == "text":
            named = " ".join(f"{name}={value}" for name, value in fields.items())
            line = self._redactor.redact(f"{at} {record.levelname} {record.name} {message}  {named}".rstrip())
            return line.replace("\n", "\\n").replace("\r", "\\r") + (f"\n{fault.rstrip()}" if fault else "")
        safe = {name: self._redactor.redact(v) if isinstance(v, str) else v for name, v in fields.items()}
        body = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": message, **safe}
        return json.dumps(body | ({"error": fault} if fault else {}), ensure_ascii=False, default=str)


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
    return found + [match[1] for text in found if (match := re.search(r"://[^/@]*:([^@]+)@", text))]
