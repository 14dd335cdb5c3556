"""Data sets: register, look, delete; and the shard table from which a trainer finds rows."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superbatch.formats.canonical import canonical_json
from superbatch_server.schemas.base import Body
from superbatch_server.schemas.datasets import Dataset, DatasetManifest
from superbatch_server.service.catalog import datasets
from superbatch_server.service.catalog.engine import read, transact
from superbatch_server.service.context import Deployed
from superbatch_server.service.registration import expand_shards
from superbatch_server.service.routes.answers import (
    IMMUTABLE,
    NOT_MODIFIED,
    IdempotencyKey,
    IfNoneMatch,
    Paged,
    create_once,
    is_known,
    json_response,
    represent,
)

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


class DatasetList(Body):
    """One page, newest first."""

    datasets: list[Dataset]
    next_page_token: str | None


@router.post("", status_code=202, response_model=Dataset)
def register_dataset(
    deployment: Deployed, request: Request, body: DatasetManifest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Register a data set; it is VERIFYING until its shards were looked at."""
    shards = expand_shards(body, deployment.roots)
    return create_once(
        deployment,
        request,
        lambda connection: datasets.register_dataset(connection, body, shards),
        key=idempotency_key,
        body=body,
    )


@router.get("", response_model=DatasetList, responses=NOT_MODIFIED)
def list_datasets(deployment: Deployed, page: Paged, if_none_match: IfNoneMatch = None) -> Response:
    """Return data sets, newest first."""
    with read(deployment.engine) as connection:
        found, token = datasets.list_datasets(connection, page)
    return represent(DatasetList(datasets=found, next_page_token=token), if_none_match)


@router.get("/{dataset_id}", response_model=Dataset, responses=NOT_MODIFIED)
def get_dataset(deployment: Deployed, dataset_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return one data set."""
    with read(deployment.engine) as connection:
        return represent(datasets.get_dataset(connection, dataset_id), if_none_match)


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(deployment: Deployed, dataset_id: str) -> None:
    """Forget a data set that no job refers to."""
    transact(deployment.engine, lambda connection: datasets.delete_dataset(connection, dataset_id))


@router.get(
    "/{dataset_id}/shards",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}, **NOT_MODIFIED},
)
def get_shard_table(deployment: Deployed, dataset_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return the shard table of a READY data set (docs/formats.md). It never changes."""
    with read(deployment.engine) as connection:
        text = canonical_json(datasets.shard_table(connection, dataset_id).to_json())
    etag = f'"{hashlib.sha256(text).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE}
    if is_known(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return json_response(text, headers=headers)
