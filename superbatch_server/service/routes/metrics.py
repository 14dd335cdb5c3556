"""/metrics, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from superbatch_server.service.access.auth import require_user
from superbatch_server.service.context import Deployed

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(deployment: Deployed, request: Request) -> Response:
    """Return requests, jobs, queue, supervisors and memory in the text format of Prometheus.

    Needs a credential of scope read, unless the setting open_metrics is true.
    """
    if not deployment.settings.open_metrics:
        require_user(request)
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
