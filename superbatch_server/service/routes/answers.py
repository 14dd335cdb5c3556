"""What the routes share: parameters of lists, keyed creation, answers from text that is ready, conditional answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import Connection

from superbatch_server.service.catalog.idempotency import Answer, answer_once
from superbatch_server.service.catalog.pages import MAX_PAGE_SIZE, PageQuery
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.context import Deployment

IMMUTABLE = "private, max-age=31536000, immutable"
_LARGEST_INTEGER = 2**63 - 1

IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="Same key and body within 24 hours: the same answer."),
]
IfNoneMatch = Annotated[str | None, Header(max_length=4096)]
Seq = Annotated[int, Query(ge=0, le=_LARGEST_INTEGER)]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
PageToken = Annotated[str | None, Query(max_length=200, description="next_page_token of the page before.")]


def page_query(page_size: PageSize = 50, page_token: PageToken = None) -> PageQuery:
    """Return the page that a list is asked for."""
    return PageQuery(page_size, page_token)


Paged = Annotated[PageQuery, Depends(page_query)]
ConsumerName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")]


def create_once(
    deployment: Deployment,
    request: Request,
    make: Callable[[Connection], BaseModel],
    *,
    key: str | None,
    body: BaseModel,
) -> Response:
    """Make something in one transaction, at most once per Idempotency-Key, and answer 202 with it and its address."""
    answer = _once(deployment, request, make, key=key, body=stored(body), status=202)
    location = f"{request.url.path}/{json.loads(answer.body)['id']}"
    return json_response(answer.body, status=answer.status, headers={"Location": location})


def change_once(
    deployment: Deployment, request: Request, change: Callable[[Connection], BaseModel], *, key: str | None
) -> Response:
    """Change something in one transaction, at most once per Idempotency-Key, and answer with what it is now."""
    answer = _once(deployment, request, change, key=key, body="", status=200)
    return json_response(answer.body, status=answer.status)


def _once(
    deployment: Deployment,
    request: Request,
    make: Callable[[Connection], BaseModel],
    *,
    key: str | None,
    body: str,
    status: int,
) -> Answer:
    def answered(connection: Connection) -> Answer:
        return Answer(status, make(connection).model_dump_json())

    identity = f"{request.method} {request.url.path}\n{body}"
    return answer_once(deployment.engine, answered, key=key, request=identity)


def json_response(text: str | bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON text as it is."""
    return Response(text, status_code=status, media_type="application/json", headers=dict(headers or {}))


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Claim that the client holds this representation already (RFC 9110, weak comparison)."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or tags == ["*"]
