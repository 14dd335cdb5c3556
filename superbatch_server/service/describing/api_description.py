"""The OpenAPI document, made complete: who may ask, by which scope, and which errors a request may answer.

Which statuses a request may answer follows from its form, so that no route has to list them: a path with an id may name
nothing (404), a change may be in conflict (409) or find the disk full (507), a body may be too long (413).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from superbatch_server.schemas.errors import STATUS_OF_CODE
from superbatch_server.service.access.scopes import OPEN_ROUTES, scope_needed
from superbatch_server.service.problems import MEDIA_TYPE, Problem

_CHANGES = frozenset({"post", "put", "patch", "delete"})
_HEADERS = {
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 0}}
}
_OF_PATH = {
    "get /v1/jobs/{job_id}/manifest": (409, 410),
    "get /v1/jobs/{job_id}/lists/{name}": (410, 416),
    "get /v1/jobs/{job_id}/batches/{seq}": (410,),
    "get /v1/datasets/{dataset_id}/shards": (422,),
}
"""What a request may answer beyond what its form tells."""


def complete_description(app: FastAPI) -> None:
    """Make `app.openapi()` return the completed document."""
    plain = app.openapi

    def completed() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(plain())
        return app.openapi_schema

    app.openapi = completed  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).setdefault("Problem", Problem.model_json_schema())
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "The deployment's token, or an access token."}
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(operation, method, path)
    return document


def _complete_operation(operation: dict[str, Any], method: str, path: str) -> None:
    is_open = f"{method.upper()} {path}" in OPEN_ROUTES
    operation["security"] = [] if is_open else [{"bearer": []}]
    if not is_open:
        operation["x-superbatch-scope"] = scope_needed(method.upper(), path).value
    operation["responses"].pop("422", None)  # each route has one, or FastAPI would add one of its own form
    for status in sorted(_statuses(operation, method, path, is_open=is_open)):
        operation["responses"][str(status)] = _problem(status)


def _statuses(operation: dict[str, Any], method: str, path: str, *, is_open: bool) -> set[int]:
    if is_open:
        return {500, 503}
    found = {401, 403, 408, 429, 500, 503, *_OF_PATH.get(f"{method} {path}", ())}
    if "{" in path:
        found.add(404)
    if method in _CHANGES:
        found |= {409, 413, 507}
    if operation.get("parameters") or "requestBody" in operation:
        found.add(422)
    return found


def _problem(status: int) -> dict[str, Any]:
    codes = sorted(code for code, of in STATUS_OF_CODE.items() if of == status)
    answer: dict[str, Any] = {
        "description": f"code: {', '.join(codes)}",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return answer | ({"headers": _HEADERS} if status in (429, 503) else {})
