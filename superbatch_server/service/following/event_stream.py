"""A job's events as server-sent events: what is there, then each as it happens, until the job is over.

Nobody holds a thread while waiting: the stream sleeps on the event loop until the job is rung or a second has passed,
looks into the catalog for a moment, and sends a comment now and then so that a dead connection is noticed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from superbatch_server.schemas.errors import NotFound
from superbatch_server.schemas.jobs import Event, JobState
from superbatch_server.service.catalog import events
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.wakeups import LOOK_S, Wakeups

KEEP_ALIVE_S = 15.0
RETRY_MS = 2000
PAGE = 200
END = "end"
"""The kind of the last message of a stream, whose data is the job's state; a browser closes its side on it."""


def end_of_stream(engine: Engine, job_id: str, after: int) -> bool:
    """Claim that the job is over and that no event above `after` is left. Raises: NotFound."""
    found, state = _look(engine, job_id, after)
    return state.is_terminal and not found


async def stream_events(
    engine: Engine,
    wakeups: Wakeups,
    job_id: str,
    *,
    after: int,
    is_allowed: Callable[[], bool],
    keep_alive_s: float = KEEP_ALIVE_S,
) -> AsyncIterator[bytes]:
    """Yield the events with ids above `after`, then `end` once the job is over or deleted.

    Before each look `is_allowed` is asked, in a thread; when it is False the stream breaks off without an `end`, so
    that a client comes again and is told why.
    """
    yield format_sse_event(retry=RETRY_MS)
    sent_s = time.monotonic()
    while True:
        seen = wakeups.seen(job_id)
        if not await run_in_threadpool(is_allowed):
            return
        try:
            found, state = await run_in_threadpool(_look, engine, job_id, after)
        except NotFound:
            yield format_sse_event(event=END, data_str="DELETED")
            return
        for event in found:
            after, sent_s = event.id, time.monotonic()
            yield format_sse_event(data_str=event.model_dump_json(), event="job", id=str(event.id))
        if len(found) == PAGE:
            continue
        if state.is_terminal:
            yield format_sse_event(event=END, data_str=state.value)
            return
        if time.monotonic() - sent_s >= keep_alive_s:
            sent_s = time.monotonic()
            yield KEEPALIVE_COMMENT
        await wakeups.wait(job_id, seen, min(LOOK_S, keep_alive_s))


def _look(engine: Engine, job_id: str, after: int) -> tuple[list[Event], JobState]:
    with read(engine) as connection:
        state = JobState(job_row(connection, job_id)["state"])
        return events.list_events(connection, job_id, after=after, limit=PAGE), state
