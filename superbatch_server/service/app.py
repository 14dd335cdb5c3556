"""The web application: routes, guards and error bodies put together around one deployment. No torch, no Ray."""

from __future__ import annotations

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from sqlalchemy import Engine

from superbatch_server.service import auth, dashboard, internal_api
from superbatch_server.service.auth import HostGuard, is_user, require_user
from superbatch_server.service.body_limit import BodyLimit
from superbatch_server.service.context import Deployment
from superbatch_server.service.internal_api import is_attempt
from superbatch_server.service.problems import MEDIA_TYPE, Problem, install_problem_handlers
from superbatch_server.service.routes import (
    datasets,
    exclusions,
    health,
    jobs,
    manifest,
    models,
    roots,
    trainers,
    uploads,
)
from superbatch_server.service.settings import Settings
from superbatch_server.storage.roots import open_roots
from superbatch_server.storage.store import ArtifactStore

API_VERSION = "1.0"
_PROBLEM = {"model": Problem, "description": f"Any error ({MEDIA_TYPE})"}


def create_app(*, engine: Engine, settings: Settings, store: ArtifactStore, token: str) -> FastAPI:
    """Return the app: the REST API for users and trainers, the internal API for drivers, the dashboard."""
    app = FastAPI(
        title="Superbatch",
        version=API_VERSION,
        description="Joint example selection for contrastive pre-training: data sets, models, jobs, batch lists.",
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.deployment = Deployment(
        engine=engine, settings=settings, store=store, roots=open_roots(settings.roots), token=token
    )
    app.state.engine, app.state.settings = engine, settings
    install_problem_handlers(app)
    _add_routes(app)
    app.add_middleware(BodyLimit, is_known=lambda request: is_user(request) or is_attempt(request))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(HostGuard, settings=settings)
    return app


def _add_routes(app: FastAPI) -> None:
    app.include_router(health.router)
    for resource in (roots, datasets, models, jobs, manifest, trainers, exclusions, uploads):
        app.include_router(
            resource.router, dependencies=[Depends(require_user)], responses={"default": _PROBLEM, 422: _PROBLEM}
        )
    app.include_router(internal_api.router)
    app.include_router(auth.router)
    app.include_router(dashboard.build_router())
