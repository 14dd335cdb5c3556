"""Who looks at the queue."""

from __future__ import annotations

from fastapi import APIRouter

from superbatch_server.schemas.supervisors import SupervisorList
from superbatch_server.service.catalog import supervisors
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed

router = APIRouter(prefix="/v1/supervisors", tags=["service"])


@router.get("")
def list_supervisors(deployment: Deployed) -> SupervisorList:
    """Return the supervisors by their heartbeats. Without a live one, jobs stay QUEUED."""
    with read(deployment.engine) as connection:
        return SupervisorList(supervisors=supervisors.list_supervisors(connection))
