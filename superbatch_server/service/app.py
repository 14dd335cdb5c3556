"""The web application: routes, guards and error bodies put together around one deployment. No torch, no Ray."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from sqlalchemy import Engine

from superbatch_server.service import dashboard
from superbatch_server.service.access.auth import HostGuard, may_send, require_user
from superbatch_server.service.access.body_limit import BodyLimit
from superbatch_server.service.access.gate import Gate
from superbatch_server.service.access.json_bodies import require_names_once
from superbatch_server.service.context import Deployment
from superbatch_server.service.describing import api_page
from superbatch_server.service.describing.api_description import complete_description
from superbatch_server.service.problems import Problem, install_problem_handlers
from superbatch_server.service.routes import (
    batches,
    datasets,
    exclusions,
    gc,
    health,
    history,
    internal_api,
    jobs,
    manifest,
    metrics,
    models,
    roots,
    storage,
    supervisors,
    tokens,
    trainers,
    uploads,
)
from superbatch_server.service.routes.internal_api import is_attempt
from superbatch_server.service.settings import Settings
from superbatch_server.service.watching.metrics import DeploymentCollector, RequestMetrics
from superbatch_server.service.watching.observation import REQUEST_ID, Observation
from superbatch_server.storage.roots import open_roots
from superbatch_server.storage.store import ArtifactStore

API_VERSION = "1.0"
_OF_RESOURCES = (Depends(require_user), Depends(require_names_once))
_RESOURCES = (
    roots,
    datasets,
    models,
    jobs,
    history,
    manifest,
    batches,
    trainers,
    exclusions,
    uploads,
    storage,
    supervisors,
    gc,
    tokens,
)


def create_app(*, engine: Engine, settings: Settings, store: ArtifactStore, token: str) -> FastAPI:
    """Return the app: the REST API for users and trainers, the internal API for drivers, the dashboard."""
    app = FastAPI(
        title="Superbatch",
        version=API_VERSION,
        description="Joint example selection for contrastive pre-training: data sets, models, jobs, batch lists.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.deployment = Deployment(
        engine=engine, settings=settings, store=store, roots=open_roots(settings.roots), token=token
    )
    app.state.engine, app.state.settings = engine, settings
    install_problem_handlers(app)
    _add_routes(app)
    complete_description(app)
    request_metrics = RequestMetrics()
    request_metrics.registry.register(DeploymentCollector(lambda: app.state.deployment))
    app.state.registry = request_metrics.registry
    app.add_middleware(BodyLimit, is_known=_may_send_long)
    app.add_middleware(Gate)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(HostGuard, settings=settings)
    app.add_middleware(Observation, metrics=request_metrics)
    return app


def _may_send_long(request: Request) -> bool:
    """Claim that a driver writes to its own API, or a user what the scope of the credential covers."""
    return (request.url.path.startswith("/internal/") and is_attempt(request)) or may_send(request)


def _add_routes(app: FastAPI) -> None:
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(api_page.router)
    for resource in _RESOURCES:
        app.include_router(resource.router, dependencies=_OF_RESOURCES, responses={422: {"model": Problem}})
    app.include_router(internal_api.router)
    app.include_router(dashboard.build_router())
