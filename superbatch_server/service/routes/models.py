"""Models: register files by root, key and digest; look; delete."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.models import Model, ModelManifest
from superbatch_server.service.catalog import models
from superbatch_server.service.catalog.engine import read, transact
from superbatch_server.service.context import Deployed
from superbatch_server.service.registration import require_known_roots
from superbatch_server.service.routes.answers import (
    NOT_MODIFIED,
    IdempotencyKey,
    IfNoneMatch,
    Paged,
    create_once,
    represent,
)

router = APIRouter(prefix="/v1/models", tags=["models"])


class ModelList(Body):
    """One page, newest first."""

    models: list[Model]
    next_page_token: str | None


@router.post("", status_code=202, response_model=Model)
def register_model(
    deployment: Deployed, request: Request, body: ModelManifest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Register a model; it is VERIFYING until its files were looked at."""
    require_known_roots(body, deployment.roots)
    return create_once(
        deployment,
        request,
        lambda connection: models.register_model(connection, body),
        key=idempotency_key,
        body=body,
    )


@router.get("", response_model=ModelList, responses=NOT_MODIFIED)
def list_models(deployment: Deployed, page: Paged, if_none_match: IfNoneMatch = None) -> Response:
    """Return models, newest first."""
    with read(deployment.engine) as connection:
        found, token = models.list_models(connection, page)
    return represent(ModelList(models=found, next_page_token=token), if_none_match)


@router.get("/{model_id}", response_model=Model, responses=NOT_MODIFIED)
def get_model(deployment: Deployed, model_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return one model."""
    with read(deployment.engine) as connection:
        return represent(models.get_model(connection, model_id), if_none_match)


@router.delete("/{model_id}", status_code=204)
def delete_model(deployment: Deployed, model_id: str) -> None:
    """Forget a model that no job refers to."""
    transact(deployment.engine, lambda connection: models.delete_model(connection, model_id))
