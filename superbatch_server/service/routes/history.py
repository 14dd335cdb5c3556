"""What happened to a job: its events, as a list or as a stream, and the logs of its attempts by byte cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.errors import InvalidRequest
from superbatch_server.schemas.jobs import Event
from superbatch_server.service.access.auth import is_still_user
from superbatch_server.service.access.gate import wants_stream
from superbatch_server.service.catalog import events, queue
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.pages import LARGEST_INTEGER, page_token, parse_page_token, refused
from superbatch_server.service.context import Deployed, Deployment
from superbatch_server.service.following.attempt_logs import MAX_LOG_BYTES, LogPart, attempt_log, read_log
from superbatch_server.service.following.event_stream import end_of_stream, stream_events
from superbatch_server.service.routes.answers import NOT_MODIFIED, IfNoneMatch, PageSize, PageToken, Seq, represent

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_STREAM = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
_NO_MORE = {"description": "The job is over and the client has every event: it need not ask again."}


class EventList(Body):
    """One page, oldest first."""

    events: list[Event]
    next_page_token: str | None


class LogText(Body):
    """A part of an attempt's log, as UTF-8."""

    job: str
    attempt: int = Field(description="Whose log it is; 0 while none has begun.")
    after: int = Field(description="First byte of this part.")
    next_after: int = Field(description="Where the next part begins.")
    size: int = Field(description="Bytes of the log now.")
    is_over: bool = Field(description="True when the attempt has ended and the log ends with this part.")
    text: str


@router.get("/events", response_model=EventList, responses={200: _STREAM, 204: _NO_MORE, **NOT_MODIFIED})
async def list_events(  # noqa: PLR0917  (a request has them by name)
    deployment: Deployed,
    request: Request,
    job_id: str,
    after: Seq = 0,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="Id of the last event that a broken stream brought.")
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the job's history with ids above `after`, oldest first.

    With `Accept: text/event-stream` it is a stream: what is there, then each event as it happens, until the job is
    over. A client that lost it goes on with Last-Event-ID, as browsers do by themselves.
    """
    if not wants_stream(request):
        return await run_in_threadpool(
            _event_page,
            deployment,
            job_id,
            after=after,
            page_size=page_size,
            token=page_token,
            if_none_match=if_none_match,
        )
    if last_event_id is not None:
        after = _event_id(last_event_id)
    if await run_in_threadpool(end_of_stream, deployment.engine, job_id, after) and last_event_id is not None:
        return Response(status_code=204)
    stream = stream_events(
        deployment.engine, deployment.wakeups, job_id, after=after, is_allowed=partial(is_still_user, request)
    )
    return _event_stream(stream)


@router.get("/logs", response_model=LogText, responses=NOT_MODIFIED)
def get_log(  # noqa: PLR0917  (a request has them by name)
    deployment: Deployed,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1, le=LARGEST_INTEGER, description="The newest one by default.")] = None,
    after: Annotated[
        int, Query(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER, description="First byte; negative: from the end.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LOG_BYTES, description="Bytes at most.")] = 64 << 10,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return a part of the log of an attempt, by byte cursor: go on at `next_after` until `is_over`."""
    with read(deployment.engine) as connection:
        log = attempt_log(connection, job_id, attempt, logs_dir=deployment.settings.logs_dir)
    part = LogPart(b"", 0, 0, 0) if log.path is None else read_log(log.path, after, limit)
    found = LogText(
        job=job_id,
        attempt=log.attempt,
        after=part.after,
        next_after=part.next_after,
        size=part.size,
        is_over=not log.is_running and part.next_after == part.size,
        text=part.text,
    )
    return represent(found, if_none_match)


def _event_page(
    deployment: Deployment, job_id: str, *, after: int, page_size: int, token: str | None, if_none_match: str | None
) -> Response:
    listing = f"events {job_id}"
    if token is not None:
        after = _event_position(listing, token)
    with read(deployment.engine) as connection:
        queue.job_row(connection, job_id)
        found = events.list_events(connection, job_id, after=after, limit=page_size + 1)
    page = found[:page_size]
    more = page_token(listing, [page[-1].id]) if len(found) > len(page) else None
    return represent(EventList(events=page, next_page_token=more), if_none_match)


def _event_stream(stream: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _event_position(listing: str, token: str) -> int:
    match parse_page_token(listing, token):
        case [int(event_id)] if type(event_id) is int and 0 <= event_id <= LARGEST_INTEGER:
            return event_id
    raise refused(token)


def _event_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidRequest(
            f"Last-Event-ID must be the id of an event of this stream; got {text!r} (header). "
            "Leave it out to begin anew."
        )
    return int(text)
