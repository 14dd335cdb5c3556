"""Jobs: submit, look, cancel, retry, delete; their history and their numbers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.errors import Validation
from superbatch_server.schemas.jobs import CurateSpec, Event, Job
from superbatch_server.schemas.stats import JobStats
from superbatch_server.service.catalog import events, jobs, queue, stats
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import (
    IdempotencyKey,
    Paged,
    PageSize,
    PageToken,
    Seq,
    change_once,
    create_once,
)
from superbatch_server.service.submission import submit

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobList(Body):
    """One page, newest first."""

    jobs: list[Job]
    next_page_token: str | None


class EventList(Body):
    """One page, oldest first."""

    events: list[Event]
    next_page_token: str | None


@router.post("", status_code=202, response_model=Job)
def submit_job(
    deployment: Deployed, request: Request, body: CurateSpec, idempotency_key: IdempotencyKey = None
) -> Response:
    """Submit a job. All that can be checked is checked now; an accepted job is never lost."""
    return create_once(
        deployment,
        request,
        lambda connection: submit(connection, body, settings=deployment.settings),
        key=idempotency_key,
        body=body,
    )


@router.get("")
def list_jobs(deployment: Deployed, page: Paged) -> JobList:
    """Return jobs, newest first."""
    with read(deployment.engine) as connection:
        found, token = jobs.list_jobs(connection, page)
    return JobList(jobs=found, next_page_token=token)


@router.post("/{job_id}:cancel", response_model=Job)
def cancel_job(deployment: Deployed, request: Request, job_id: str, idempotency_key: IdempotencyKey = None) -> Response:
    """Ask a job to stop; what it published stays. Repeating is allowed."""
    return change_once(
        deployment,
        request,
        lambda connection: jobs.job_of(queue.request_cancel(connection, job_id)),
        key=idempotency_key,
    )


@router.post("/{job_id}:retry", response_model=Job)
def retry_job(deployment: Deployed, request: Request, job_id: str, idempotency_key: IdempotencyKey = None) -> Response:
    """Queue a FAILED job again; it goes on at its next batch."""
    return change_once(
        deployment, request, lambda connection: jobs.job_of(queue.retry(connection, job_id)), key=idempotency_key
    )


@router.get("/{job_id}")
def get_job(deployment: Deployed, job_id: str) -> Job:
    """Return one job."""
    with read(deployment.engine) as connection:
        return jobs.get_job(connection, job_id)


@router.delete("/{job_id}", status_code=204)
def delete_job(deployment: Deployed, job_id: str) -> None:
    """Forget a job that has ended."""
    with write(deployment.engine) as connection:
        jobs.delete_job(connection, job_id)


@router.get("/{job_id}/events")
def list_events(
    deployment: Deployed, job_id: str, after: Seq = 0, page_size: PageSize = 100, page_token: PageToken = None
) -> EventList:
    """Return the job's history with ids above `after`, oldest first."""
    if page_token is not None:
        after = _event_id(page_token)
    with read(deployment.engine) as connection:
        queue.job_row(connection, job_id)
        found = events.list_events(connection, job_id, after=after, limit=page_size + 1)
    page = found[:page_size]
    return EventList(events=page, next_page_token=f"e{page[-1].id}" if len(found) > len(page) else None)


@router.get("/{job_id}/stats")
def get_stats(
    deployment: Deployed,
    job_id: str,
    num_segments: Annotated[int, Query(ge=1, le=10_000, description="Newest segments in the curves.")] = 500,
) -> JobStats:
    """Return filter ratio and lift per source, quarantine, generations, staleness, curves and the schedule used."""
    with read(deployment.engine) as connection:
        return stats.job_stats(connection, job_id, num_segments=num_segments)


def _event_id(page_token: str) -> int:
    digits = page_token.removeprefix("e")
    if not (page_token.startswith("e") and digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise Validation(
            f"page_token must be a next_page_token of this list; got {page_token[:60]!r} (query). "
            "Start again without it."
        )
    return int(digits)
