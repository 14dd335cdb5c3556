"""What the routes share: parameters of lists, keyed creation, answers from text that is ready, conditional answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import Connection

from superbatch_server.service.access.auth import credential_of
from superbatch_server.service.catalog.idempotency import Answer, KeyedRequest, answer_once
from superbatch_server.service.catalog.pages import LARGEST_INTEGER, MAX_PAGE_SIZE, PageQuery
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.context import Deployment

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATED = "private, no-cache"

IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="Same key and body within 24 hours: the same answer."),
]
IfNoneMatch = Annotated[str | None, Header(max_length=4096, description="An ETag that the client holds.")]
NOT_MODIFIED: dict[int | str, dict[str, str]] = {304: {"description": "The client holds this representation."}}
Seq = Annotated[int, Query(ge=0, le=LARGEST_INTEGER)]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
PageToken = Annotated[
    str | None, Query(min_length=1, max_length=300, description="next_page_token of the page before.")
]


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
    keyed = keyed_request(request, key=key, body=body)
    answer = answer_once(deployment.engine, lambda connection: Answer(202, _text(make(connection))), keyed)
    location = f"{request.url.path}/{json.loads(answer.body)['id']}"
    return json_response(answer.body, status=answer.status, headers={"Location": location})


def change_once(
    deployment: Deployment,
    request: Request,
    change: Callable[[Connection], BaseModel],
    *,
    key: str | None,
    body: BaseModel | None = None,
    status: int = 200,
) -> Response:
    """Change something in one transaction, at most once per Idempotency-Key, and answer with what it is now."""
    keyed = keyed_request(request, key=key, body=body)
    answer = answer_once(deployment.engine, lambda connection: Answer(status, _text(change(connection))), keyed)
    return json_response(answer.body, status=answer.status)


def keyed_request(request: Request, *, key: str | None, body: BaseModel | None) -> KeyedRequest:
    """Return what makes a repeated request the same request."""
    text = "" if body is None else stored(body)
    return KeyedRequest(key, f"{request.method} {request.url.path}\n{text}", owner=credential_of(request).id)


def represent(found: BaseModel, if_none_match: str | None) -> Response:
    """Answer with a resource and its ETag; 304 where the client holds this representation."""
    return represent_text(_text(found), if_none_match)


def represent_text(text: str, if_none_match: str | None) -> Response:
    """Answer with JSON text and its ETag; 304 where the client holds this representation."""
    etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": REVALIDATED}
    if is_known(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return json_response(text, headers=headers)


def _text(found: BaseModel) -> str:
    return found.model_dump_json()


def json_response(text: str | bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON text as it is."""
    return Response(text, status_code=status, media_type="application/json", headers=dict(headers or {}))


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Claim that the client holds this representation already (RFC 9110, weak comparison)."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or tags == ["*"]
