"""What a trainer tells the service: its progress, and its learner's checkpoints."""

from __future__ import annotations

from fastapi import APIRouter

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.errors import WrongJob
from superbatch_server.schemas.trainers import Checkpoint, CheckpointPush, Consumer, ConsumerReport
from superbatch_server.schemas.uploads import UPLOADS_ROOT
from superbatch_server.service.catalog import checkpoints, consumers
from superbatch_server.service.catalog.checkpoints import noting_refusal
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import ConsumerName
from superbatch_server.service.verification import check_weights

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


@router.get("/consumers")
def list_consumers(deployment: Deployed, job_id: str) -> ConsumerList:
    """Return the trainers of a job."""
    with read(deployment.engine) as connection:
        job_row(connection, job_id)
        return ConsumerList(consumers=consumers.list_consumers(connection, job_id))


@router.get("/consumers/{name}")
def get_consumer(deployment: Deployed, job_id: str, name: ConsumerName) -> Consumer:
    """Return one trainer."""
    with read(deployment.engine) as connection:
        return consumers.get_consumer(connection, job_id, name)


@router.post("/checkpoints", status_code=202)
def push_checkpoint(deployment: Deployed, job_id: str, body: CheckpointPush) -> Checkpoint:
    """Push a checkpoint: its file is checked now, its use begins when a driver has embedded the fixed rows with it.

    The same file at the same trained_seq is one checkpoint, however often it is pushed, so an Idempotency-Key is not
    needed and not looked at: after a rewind the same bytes must count again.
    """
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
    with write(deployment.engine) as connection:
        return checkpoints.receive(connection, job_id, body)


@router.get("/checkpoints")
def list_checkpoints(deployment: Deployed, job_id: str) -> CheckpointList:
    """Return the checkpoints of a job, the last pushed first."""
    with read(deployment.engine) as connection:
        return CheckpointList(checkpoints=checkpoints.list_checkpoints(connection, job_id))
