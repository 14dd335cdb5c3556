"""What a trainer tells the service: its progress, and its learner's checkpoints."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Connection

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.errors import WrongJob
from superbatch_server.schemas.trainers import Checkpoint, CheckpointPush, Consumer, ConsumerReport
from superbatch_server.schemas.uploads import UPLOADS_ROOT
from superbatch_server.service.catalog import checkpoints, consumers
from superbatch_server.service.catalog.checkpoints import noting_refusal
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.idempotency import answered_before
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import (
    NOT_MODIFIED,
    ConsumerName,
    IdempotencyKey,
    IfNoneMatch,
    change_once,
    json_response,
    keyed_request,
    represent,
)
from superbatch_server.service.upkeep.verification import check_weights
from superbatch_server.storage.roots import find_root

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["trainers"])

JOB_NOTE = "superbatch_job"
"""Metadata of a safetensors file in which a trainer may note whose learner it is."""


class ConsumerList(Body):
    """Every registered trainer of a job."""

    consumers: list[Consumer]


class CheckpointList(Body):
    """Every checkpoint of a job, the last pushed first."""

    checkpoints: list[Checkpoint]


@router.put("/consumers/{name}")
def put_consumer(deployment: Deployed, job_id: str, name: ConsumerName, body: ConsumerReport) -> Consumer:
    """Register a trainer, or report its progress. Repeating is allowed."""
    with write(deployment.engine) as connection:
        return consumers.report_progress(connection, job_id, name, body)


@router.get("/consumers", response_model=ConsumerList, responses=NOT_MODIFIED)
def list_consumers(deployment: Deployed, job_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return the trainers of a job."""
    with read(deployment.engine) as connection:
        job_row(connection, job_id)
        found = ConsumerList(consumers=consumers.list_consumers(connection, job_id))
    return represent(found, if_none_match)


@router.get("/consumers/{name}", response_model=Consumer, responses=NOT_MODIFIED)
def get_consumer(deployment: Deployed, job_id: str, name: ConsumerName, if_none_match: IfNoneMatch = None) -> Response:
    """Return one trainer."""
    with read(deployment.engine) as connection:
        return represent(consumers.get_consumer(connection, job_id, name), if_none_match)


@router.post("/checkpoints", status_code=202, response_model=Checkpoint)
def push_checkpoint(
    deployment: Deployed, request: Request, job_id: str, body: CheckpointPush, idempotency_key: IdempotencyKey = None
) -> Response:
    """Push a checkpoint: its file is checked now, its use begins when a driver has embedded the fixed rows with it.

    The same file at the same trained_seq is one checkpoint, however often it is pushed, so an Idempotency-Key is not
    needed. After a rewind the same bytes count again, unless they come with the key of the push before it.
    """
    before = answered_before(deployment.engine, keyed_request(request, key=idempotency_key, body=body))
    if before is not None:
        return json_response(before.body, status=before.status)
    with read(deployment.engine) as connection:
        checkpoints.require_pushable(connection, job_id, body)
    file = body.files[0]
    with noting_refusal(deployment.engine, job_id, trained_seq=body.trained_seq, key=file.key):
        roots = {**deployment.roots, UPLOADS_ROOT: deployment.uploads.root}
        noted = check_weights(roots, file).metadata.get(JOB_NOTE, job_id)
        if noted != job_id:
            raise WrongJob(
                f"a checkpoint belongs to one job; the file says {noted[:80]!r} (job {job_id}, file {file.key}). "
                "Push the file that this job's learner wrote."
            )

    def receive(connection: Connection) -> Checkpoint:
        received = checkpoints.receive(connection, job_id, body)
        find_root(roots, file.root).stat(file.key)  # an upload may have been deleted since it was checked
        return received

    return change_once(deployment, request, receive, key=idempotency_key, body=body, status=202)


@router.get("/checkpoints", response_model=CheckpointList, responses=NOT_MODIFIED)
def list_checkpoints(deployment: Deployed, job_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """Return the checkpoints of a job, the last pushed first."""
    with read(deployment.engine) as connection:
        found = CheckpointList(checkpoints=checkpoints.list_checkpoints(connection, job_id))
    return represent(found, if_none_match)
