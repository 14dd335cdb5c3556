"""Pages made from the program's own lists: docs/reference.md (requests), docs/settings.md and docs/errors.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from superbatch_server.schemas.errors import STATUS_OF_CODE, ApiError
from superbatch_server.service.describing.advice import JOB_FAILURES, REMEDIES, SETTING_HINTS
from superbatch_server.service.describing.openapi import openapi_text
from superbatch_server.service.settings import CLIENT_KEYS, PREFIX, Settings

_MADE = "Made by `make docs` from the program itself; a test compares it."

_REFERENCE = f"""# Reference of the API

{_MADE} How to use it: [api.md](api.md). Bodies, parameters and answers of each request: `/docs` of a running service,
or [openapi.json](openapi.json). Errors: [errors.md](errors.md). Settings: [settings.md](settings.md).

Scope: what the credential must cover; `read` < `trainer` < `admin`.
"""

_SETTINGS = f"""# Settings

{_MADE}

`superbatch serve` reads them once, from variables of its environment; its flags win over them. An unknown
`{PREFIX}*` variable is refused, so a typo does not pass. Lists, objects and roots are JSON. Other processes of the
deployment (`--only supervisor`) need the same values. A change takes effect at the next start.

The command line reads {" and ".join(f"`{key}`" for key in sorted(CLIENT_KEYS))} as well, to find a service; `serve`
ignores these two.
"""

_SECTIONS = (
    ("Places", "data_dir"),
    ("Address", "host"),
    ("Uploads and garbage", "uploads_dir"),
    ("Limits", "requests_per_s"),
    ("Metrics and logs", "open_metrics"),
    ("Queue, leases, drivers", "lease_s"),
    ("Workers and numerics", "num_workers"),
    ("Runner", "driver_command"),
)
"""Title and first field of each part of docs/settings.md; the fields stand in the order of the class."""

_ERRORS = f"""# Errors

{_MADE}

Every error of the API is a body of RFC 9457, `application/problem+json`:

| member | meaning |
| --- | --- |
| `code` | stable: programs match on it |
| `detail` | for people: rule; what was got; where; what to do. May change |
| `status`, `title`, `type`, `instance` | status, short name, `urn:superbatch:problem:<code>`, path of the request |
| `errors` | of `validation`: every field that is wrong, with its sentence |
| `oldest_seq` | of `behind_retention` |

408, 429, 500, 503 and 507 may be repeated, after `Retry-After` seconds where the header is there; a change with its
Idempotency-Key. All others fail again until something is changed. The command line prints `detail`, code and status,
and ends with 3; 4 means that no service was found.

## Answers of the API
"""

_FAILURES = """
## Why a job FAILED

`error_code` and `error` of the job say it; so do its page and the last line of `superbatch events JOB`.
`superbatch retry JOB` goes on at the next batch. A job that waits (for a trainer, a checkpoint, room on a disk) is
RUNNING or QUEUED with a phase that says so, never FAILED. It may also fail with a code of the table above.
"""

Row = Sequence[str]


def reference_text() -> str:
    """Return docs/reference.md: every request with the scope that it needs."""
    rows = [
        (f"`{method.upper()} {path}`", operation.get("x-superbatch-scope", "none"), _first_line(operation))
        for path, operations in json.loads(openapi_text())["paths"].items()
        for method, operation in operations.items()
    ]
    return f"{_REFERENCE}\n{_table(('request', 'scope', 'what it does'), rows)}\n"


def settings_text() -> str:
    """Return docs/settings.md: every setting with form, default, meaning and when to change it."""
    return "\n".join([_SETTINGS, *_setting_sections()]) + "\n"


def errors_text() -> str:
    """Return docs/errors.md: every code with its status, meaning and remedy, and the codes of failed jobs."""
    kinds = {kind.code: kind for kind in _family(ApiError)}
    answers = [
        (f"`{code}`", str(STATUS_OF_CODE[code]), _sentence(kinds[code]), REMEDIES.get(code, ""))
        for code in sorted(STATUS_OF_CODE)
    ]
    failures = [(f"`{code}`", *JOB_FAILURES[code]) for code in sorted(JOB_FAILURES)]
    parts = (
        _ERRORS,
        _table(("code", "status", "meaning", "what to do"), answers),
        _FAILURES,
        _table(("error_code", "meaning", "what to do"), failures),
    )
    return "\n".join(parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "reference.md": reference_text,
    "settings.md": settings_text,
    "errors.md": errors_text,
}
"""File name in docs/ to what makes it."""


def _setting_sections() -> Iterator[str]:
    forms = Settings.model_json_schema()["properties"]
    titles = {first: title for title, first in _SECTIONS}
    rows: list[Row] = []
    for name, field in Settings.model_fields.items():
        if name in titles:
            yield from _setting_table(rows)
            yield f"## {titles[name]}\n"
            rows = []
        default = _default(name, field.default)
        meaning = field.description or ""
        rows.append((f"`{PREFIX}{name.upper()}`", _form(forms[name]), default, meaning, SETTING_HINTS.get(name, "")))
    yield from _setting_table(rows)


def _setting_table(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield _table(("variable", "form", "default", "meaning", "change it"), rows) + "\n"


def _default(name: str, value: object) -> str:
    if name == "driver_command":
        return "the driver of this package"
    if value is PydanticUndefined:
        return "`{}`" if name == "roots" else "see meaning"
    if value is None:
        return "none"
    text = json.dumps(value) if isinstance(value, (bool, tuple)) else f"{value:g}" if type(value) is float else value
    return f"`{text}`"


def _form(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_form(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = {"string": "text", "array": "JSON list", "object": "JSON object", "boolean": "`true` or `false`"}
    what = schema.get("format", "") if schema.get("format") == "path" else kind.get(schema["type"], schema["type"])
    signs = (("exclusiveMinimum", ">"), ("minimum", ">="), ("maximum", "<="))
    return ", ".join([what, *(f"{sign} {schema[name]:,g}" for name, sign in signs if name in schema)])


def _first_line(operation: Mapping[str, Any]) -> str:
    return str(operation.get("description", "")).partition("\n")[0]


def _sentence(kind: type[ApiError]) -> str:
    """Return the first paragraph of an error's docstring as one line."""
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())


def _family(error: type[ApiError]) -> Iterator[type[ApiError]]:
    yield error
    for child in error.__subclasses__():
        yield from _family(child)


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        Path(argument).write_text(PAGES[Path(argument).name](), encoding="utf-8")
