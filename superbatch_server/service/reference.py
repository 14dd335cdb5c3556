"""docs/reference.md, made from the program's own lists: settings, requests, error codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from superbatch_server.schemas.errors import STATUS_OF_CODE, ApiError
from superbatch_server.service.openapi import openapi_text
from superbatch_server.service.settings import PREFIX, Settings

_HEAD = """# Reference

Made by `make docs` from the program itself; a test compares it. The bodies of requests: `/docs` of a running service.
"""


def reference_text() -> str:
    """Return the whole page."""
    parts = [_HEAD, "## Settings\n", *_settings(), "\n## Requests\n", *_requests(), "\n## Error codes\n", *_errors()]
    return "\n".join(parts) + "\n"


def _settings() -> Iterator[str]:
    yield "Read once from the environment by `superbatch serve`; an unknown `SUPERBATCH_*` variable is refused.\n"
    rows = [
        (f"`{PREFIX}{name.upper()}`", _default(name, field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    yield _table(("variable", "default", "meaning"), rows)


def _default(name: str, field: FieldInfo) -> str:
    if name == "driver_command":
        return "the driver of this package"
    if field.default is PydanticUndefined:
        return "`{}`" if field.default_factory is dict else "see meaning"
    return f"`{field.default}`"


def _requests() -> Iterator[str]:
    paths = json.loads(openapi_text())["paths"]
    rows = [
        (
            f"`{method.upper()} {path}`",
            str(operation["description"]).splitlines()[0] if "description" in operation else "",
        )
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]
    yield _table(("request", "what it does"), rows)


def _errors() -> Iterator[str]:
    yield "Every error is an RFC 9457 body; programs match on `code`, which is stable, never on the sentence.\n"
    titles = {error.code: error.title for error in _family(ApiError)}
    rows = [(f"`{code}`", str(status), titles.get(code, "")) for code, status in sorted(STATUS_OF_CODE.items())]
    yield _table(("code", "status", "when"), rows)


def _family(error: type[ApiError]) -> Iterator[type[ApiError]]:
    yield error
    for child in error.__subclasses__():
        yield from _family(child)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference_text())
