"""Garbage collection: ask for a run, look how far it is. A supervisor does the work."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from superbatch_server.schemas.garbage import GarbageRequest, GarbageRun
from superbatch_server.service.catalog import gc_runs
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import IdempotencyKey, create_once

router = APIRouter(prefix="/v1/gc", tags=["operation"])


@router.post("", status_code=202, response_model=GarbageRun)
def begin_collection(
    deployment: Deployed, request: Request, body: GarbageRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Look for what nothing refers to any more, and remove it if `dry_run` is false; one run at a time."""
    min_age_s = deployment.settings.gc_min_age_s if body.min_age_s is None else body.min_age_s
    return create_once(
        deployment,
        request,
        lambda connection: gc_runs.begin_run(connection, dry_run=body.dry_run, min_age_s=min_age_s),
        key=idempotency_key,
        body=body,
    )


@router.get("/{run_id}")
def get_collection(deployment: Deployed, run_id: str) -> GarbageRun:
    """Return a run: what it found, or has removed, up to now."""
    with read(deployment.engine) as connection:
        return gc_runs.get_run(connection, run_id)
