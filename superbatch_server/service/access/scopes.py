"""Which scope each request of the API needs: one table, which a test compares with the OpenAPI document.

read     looks at everything except access tokens
trainer  read, and what a training run sends: progress, checkpoints, uploads
admin    everything

A request that is missing here needs `admin`, so a forgotten line locks out instead of letting in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from superbatch_server.schemas.errors import Forbidden
from superbatch_server.schemas.tokens import Scope

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_FIELD = re.compile(r"\\{\w+\\}")

_READ = """
GET /metrics
GET /v1/roots
GET /v1/datasets
GET /v1/datasets/{dataset_id}
GET /v1/datasets/{dataset_id}/shards
GET /v1/models
GET /v1/models/{model_id}
GET /v1/jobs
GET /v1/jobs/{job_id}
GET /v1/jobs/{job_id}/events
GET /v1/jobs/{job_id}/logs
GET /v1/jobs/{job_id}/stats
GET /v1/jobs/{job_id}/manifest
GET /v1/jobs/{job_id}/lists/{name}
GET /v1/jobs/{job_id}/batches/{seq}
GET /v1/jobs/{job_id}/consumers
GET /v1/jobs/{job_id}/consumers/{name}
GET /v1/jobs/{job_id}/checkpoints
GET /v1/jobs/{job_id}/exclusions
GET /v1/jobs/{job_id}/uploads
GET /v1/jobs/{job_id}/uploads/{upload_id}
GET /v1/supervisors
GET /v1/storage
"""

_TRAINER = """
PUT /v1/jobs/{job_id}/consumers/{name}
POST /v1/jobs/{job_id}/checkpoints
POST /v1/jobs/{job_id}/uploads
PUT /v1/jobs/{job_id}/uploads/{upload_id}
POST /v1/jobs/{job_id}/uploads/{upload_id}:complete
DELETE /v1/jobs/{job_id}/uploads/{upload_id}
"""

_ADMIN = """
POST /v1/datasets
DELETE /v1/datasets/{dataset_id}
POST /v1/models
DELETE /v1/models/{model_id}
POST /v1/jobs
DELETE /v1/jobs/{job_id}
POST /v1/jobs/{job_id}:cancel
POST /v1/jobs/{job_id}:retry
POST /v1/jobs/{job_id}/exclusions
POST /v1/gc
GET /v1/gc/{run_id}
GET /v1/tokens
POST /v1/tokens
DELETE /v1/tokens/{token_id}
"""

_TEXT_OF_SCOPE = {Scope.READ: _READ, Scope.TRAINER: _TRAINER, Scope.ADMIN: _ADMIN}


def table_of(text_of_scope: Mapping[Scope, str]) -> Mapping[str, Scope]:
    """Return the table; a request that stands in it twice is refused with ValueError."""
    lines = [(line, scope) for scope, text in text_of_scope.items() for line in text.split("\n") if line]
    table = dict(lines)
    if len(table) < len(lines):
        twice = sorted({line for line, _ in lines if [other for other, _ in lines].count(line) > 1})
        raise ValueError(f"a request needs one scope; got {', '.join(twice)} twice (table of scopes). Delete one line.")
    return MappingProxyType(table)


SCOPE_OF_ROUTE = table_of(_TEXT_OF_SCOPE)
"""`METHOD /path/{of}/the/route` to the scope that it needs."""

_PATTERN_OF_ROUTE = {line: re.compile(_FIELD.sub("[^/]+", re.escape(line))) for line in SCOPE_OF_ROUTE}

OPEN_ROUTES = frozenset({"GET /healthz"})
"""Routes of the OpenAPI document that need no credential."""


def scope_needed(method: str, template: str) -> Scope:
    """Return the scope that a request needs; the dashboard's pages, which are outside the API, need `read`."""
    if method in SAFE_METHODS and not template.startswith("/v1/"):
        return Scope.READ
    return SCOPE_OF_ROUTE.get(f"{'GET' if method == 'HEAD' else method} {template}", Scope.ADMIN)


def template_of(method: str, path: str) -> str:
    """Return the template of a path in the table, where it has not been routed yet; the path where it has none."""
    asked = f"{method} {path}"
    return next((line.split(" ")[1] for line, form in _PATTERN_OF_ROUTE.items() if form.fullmatch(asked)), path)


def require_scope(held: Scope, method: str, template: str) -> None:
    """Raise Forbidden unless a credential of scope `held` may ask for this."""
    needed = scope_needed(method, template)
    if not held.covers(needed):
        raise Forbidden(
            f"this request needs a token of scope {needed}; got one of scope {held} ({method} {template}). "
            "Ask whoever runs the service for `superbatch tokens create --scope " + needed + "`."
        )
