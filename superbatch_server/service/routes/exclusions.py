"""Rows that a job must not use any more."""

from __future__ import annotations

from fastapi import APIRouter

from superbatch_server.schemas.trainers import ExclusionRequest, Exclusions
from superbatch_server.service.catalog import exclusions
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.context import Deployed

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["trainers"])


@router.post("/exclusions", status_code=202)
def exclude_rows(deployment: Deployed, job_id: str, body: ExclusionRequest) -> Exclusions:
    """Keep rows, named by uid, out of batches not yet composed; published batches that hold one become revoked.

    Repeating is allowed. The manifest lists the revoked batches once the search through the published lists, which
    follows this answer, has come to them; `is_searching` says when it is over.
    """
    with write(deployment.engine) as connection:
        return exclusions.exclude(connection, job_id, body)


@router.get("/exclusions")
def get_exclusions(deployment: Deployed, job_id: str) -> Exclusions:
    """Return what a job leaves out, and how far the search for published batches that hold such rows is."""
    with read(deployment.engine) as connection:
        return exclusions.get_exclusions(connection, job_id)
