"""Health, for whoever watches the service; the only route that needs no credential."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from sqlalchemy import text

from superbatch_server.schemas.base import Body
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed

router = APIRouter(tags=["health"])


class Health(Body):
    """The API answers and the catalog can be read."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
@router.get("/v1/health", include_in_schema=False)
def get_health(deployment: Deployed) -> Health:
    """Return ok, or 503 when the catalog does not answer."""
    with read(deployment.engine) as connection:
        connection.execute(text("SELECT 1"))
    return Health()
