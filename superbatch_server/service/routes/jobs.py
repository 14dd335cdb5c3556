"""Jobs: submit, look, cancel, retry, delete; and their numbers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.jobs import CurateSpec, Job, JobState
from superbatch_server.schemas.stats import JobStats
from superbatch_server.service.catalog import jobs, queue, stats
from superbatch_server.service.catalog.engine import read, transact
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import (
    NOT_MODIFIED,
    IdempotencyKey,
    IfNoneMatch,
    Paged,
    change_once,
    create_once,
    represent,
)
from superbatch_server.service.submission import submit

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobList(Body):
    """One page, newest first."""

    jobs: list[Job]
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


@router.get("", response_model=JobList, responses=NOT_MODIFIED)
def list_jobs(
    deployment: Deployed,
    page: Paged,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return jobs, newest first."""
    with read(deployment.engine) as connection:
        found, token = jobs.list_jobs(connection, page, state=state)
    return represent(JobList(jobs=found, next_page_token=token), if_none_match)


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


@router.get("/{job_id}", response_model=Job, responses=NOT_MODIFIED)
def get_job(deployment: Deployed, job_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return one job."""
    with read(deployment.engine) as connection:
        return represent(jobs.get_job(connection, job_id), if_none_match)


@router.delete("/{job_id}", status_code=204)
def delete_job(deployment: Deployed, job_id: str) -> None:
    """Forget a job that has ended."""
    transact(deployment.engine, lambda connection: jobs.delete_job(connection, job_id))


@router.get("/{job_id}/stats", response_model=JobStats, responses=NOT_MODIFIED)
def get_stats(
    deployment: Deployed,
    job_id: str,
    num_segments: Annotated[int, Query(ge=1, le=10_000, description="Newest segments in the curves.")] = 500,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return filter ratio and lift per source, quarantine, generations, staleness, curves and the schedule used."""
    with read(deployment.engine) as connection:
        found = stats.job_stats(connection, job_id, num_segments=num_segments)
    return represent(found, if_none_match)
