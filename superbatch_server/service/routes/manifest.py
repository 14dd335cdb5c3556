"""The log of a job as a trainer reads it: the manifest by long poll, and the batch lists by byte range."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from superbatch_server.schemas.errors import RangeRefused, Unavailable
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.manifest import PublishedList, find_list
from superbatch_server.service.catalog.wakeups import LOOK_S
from superbatch_server.service.context import Deployed, Deployment
from superbatch_server.service.problems import problem_response
from superbatch_server.service.routes.answers import (
    IMMUTABLE,
    NOT_MODIFIED,
    REVALIDATED,
    IfNoneMatch,
    Seq,
    is_known,
    json_response,
)
from superbatch_server.service.routes.ranges import NoSuchRange, wanted_range
from superbatch_server.storage.store import ArtifactStore

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["log"])

LONGEST_WAIT_S = 60.0
_LOOK_S = LOOK_S / 2
"""A poller looks this often without being rung, at a page that may be just as old: together at most `LOOK_S`."""
_PART_BYTES = 1 << 20
_LIST = "application/vnd.apache.parquet"


@router.get(
    "/manifest", response_class=Response, responses={200: {"content": {"application/json": {}}}, **NOT_MODIFIED}
)
async def get_manifest(  # noqa: PLR0917  (a request has them by name)
    deployment: Deployed,
    request: Request,
    job_id: str,
    history: Annotated[str | None, Query(max_length=64)] = None,
    after: Seq = 0,
    wait: Annotated[float, Query(ge=0, description="Seconds to wait for more; at most 60 are waited.")] = 0.0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the segments from batch `after` on: at once when there are any, else when they come or after `wait`.

    A poll with If-None-Match ends as well when anything else of the manifest has changed: batches were revoked.
    """

    pages, place = deployment.manifest_pages, (job_id, history, after)
    stop_s = time.monotonic() + min(wait, LONGEST_WAIT_S)
    seen = deployment.wakeups.seen(job_id)
    page = await pages.page(place)
    while is_known(if_none_match, page.etag) or not (page.has_news or if_none_match):
        left_s = stop_s - time.monotonic()
        if left_s <= 0 or await request.is_disconnected():
            break
        seen = await deployment.wakeups.wait(job_id, seen, min(_LOOK_S, left_s))
        page = await pages.page(place, max_age_s=_LOOK_S)
    headers = {"ETag": page.etag, "Cache-Control": REVALIDATED}
    if is_known(if_none_match, page.etag):
        return Response(status_code=304, headers=headers)
    return json_response(page.text, headers=headers)


@router.get(
    "/lists/{name}",
    response_class=Response,
    responses={
        200: {"content": {_LIST: {}}},
        206: {"content": {_LIST: {}}, "description": "The part that Range names."},
        **NOT_MODIFIED,
    },
)
def get_list(  # noqa: PLR0917  (a request has them by name)
    deployment: Deployed,
    request: Request,
    job_id: str,
    name: str,
    if_none_match: IfNoneMatch = None,
    range_header: Annotated[str | None, Header(alias="Range", max_length=200)] = None,
    if_range: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Return a batch list or one byte range of it. A list never changes."""
    with read(deployment.engine) as connection:
        published = find_list(connection, job_id, name)
    headers = {"ETag": f'"{published.sha256}"', "Cache-Control": IMMUTABLE, "Accept-Ranges": "bytes"}
    if is_known(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    may_cut = if_range is None or if_range == headers["ETag"]
    try:
        part = wanted_range(range_header, published.bytes) if may_cut else None
    except NoSuchRange:
        error = RangeRefused(
            f"a range must begin inside the file; got {range_header!r} of {published.bytes} bytes (list {name}). "
            "Ask for bytes below its length."
        )
        return problem_response(error, request.url.path, headers={"Content-Range": f"bytes */{published.bytes}"})
    return _bytes_response(deployment, published, part, headers)


def _bytes_response(
    deployment: Deployment, published: PublishedList, part: range | None, headers: dict[str, str]
) -> Response:
    sent = part if part is not None else range(published.bytes)
    headers["Content-Length"] = str(len(sent))
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{published.bytes}"
    _require_whole(deployment.store, published)
    return StreamingResponse(
        _parts(deployment.store, published.key, sent),
        status_code=200 if part is None else 206,
        media_type=_LIST,
        headers=headers,
    )


def _require_whole(store: ArtifactStore, published: PublishedList) -> None:
    size = store.size(published.key) if store.exists(published.key) else 0
    if size != published.bytes:
        raise Unavailable(
            f"a published list must be in the store; {published.key!r} has {size} of {published.bytes} bytes (store). "
            "Bring the store back as it was; its backup has the file under the same key."
        )


def _parts(store: ArtifactStore, key: str, sent: range) -> Iterator[bytes]:
    for start in range(sent.start, sent.stop, _PART_BYTES):
        yield store.get_range(key, start, min(start + _PART_BYTES, sent.stop))
