"""Rows that a job must not use any more."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superbatch_server.schemas.trainers import ExclusionRequest, Exclusions
from superbatch_server.service.catalog import exclusions
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import (
    NOT_MODIFIED,
    IdempotencyKey,
    IfNoneMatch,
    change_once,
    represent,
)

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["trainers"])


@router.post("/exclusions", status_code=202, response_model=Exclusions)
def exclude_rows(
    deployment: Deployed,
    request: Request,
    job_id: str,
    body: ExclusionRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Keep rows, named by uid, out of batches not yet composed; published batches that hold one become revoked.

    Repeating is allowed. The manifest lists the revoked batches once the search through the published lists, which
    follows this answer, has come to them; `is_searching` says when it is over.
    """
    return change_once(
        deployment,
        request,
        lambda connection: exclusions.exclude(connection, job_id, body),
        key=idempotency_key,
        body=body,
        status=202,
    )


@router.get("/exclusions", response_model=Exclusions, responses=NOT_MODIFIED)
def get_exclusions(deployment: Deployed, job_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return what a job leaves out, and how far the search for published batches that hold such rows is."""
    with read(deployment.engine) as connection:
        return represent(exclusions.get_exclusions(connection, job_id), if_none_match)
