"""Health, for whoever watches the service: the routes that need no credential.

`/v1/health`: the process lives; if not, start it again. `/healthz`: it can serve; if not, send it no requests.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from sqlalchemy import text

from superbatch_server.schemas.base import Body
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed

router = APIRouter(tags=["health"])


class Health(Body):
    """The API answers."""

    status: Literal["ok"] = "ok"


@router.get("/v1/health", include_in_schema=False)
async def get_liveness() -> Health:
    """Return ok: a catalog that is away is not mended by another start of the API."""
    return Health()


@router.get("/healthz")
def get_health(deployment: Deployed) -> Health:
    """Return ok, or 503 when the catalog does not answer."""
    with read(deployment.engine) as connection:
        connection.execute(text("SELECT 1"))
    return Health()
