"""Resumable uploads of checkpoints: begin, send parts in order, ask how far it is, complete, then POST checkpoints.

An upload is named by the sha256 of its file, so beginning it again is going on with it, whoever asks. A part is kept
whole or not at all.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.requests import ClientDisconnect

from superbatch_server.schemas.errors import InvalidRequest, NotFound
from superbatch_server.schemas.models import FileRef
from superbatch_server.schemas.uploads import MAX_UPLOAD_BYTES, UPLOADS_ROOT, Upload, UploadStart
from superbatch_server.service.body_limit import MAX_BODY_BYTES
from superbatch_server.service.catalog.checkpoints import noting_refusal, require_pushed_learner
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed
from superbatch_server.service.upload_sweep import require_room
from superbatch_server.storage.uploads import UploadFile, Uploads

router = APIRouter(prefix="/v1/jobs/{job_id}/uploads", tags=["trainers"])

UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Offset = Annotated[int, Query(ge=0, le=MAX_UPLOAD_BYTES, description="received_bytes of the upload.")]


async def _part(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise InvalidRequest(
            f"a part must come whole; the connection broke before its end (upload, {request.url.path[-64:]}). "
            "Ask how far the upload is, and go on there."
        ) from error


Part = Annotated[bytes, Depends(_part)]
_PART_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}


@router.post("", status_code=202)
def begin_upload(deployment: Deployed, job_id: str, body: UploadStart) -> Upload:
    """Begin the upload of a checkpoint, or go on with the one of the same bytes; nothing is to be sent twice."""
    with read(deployment.engine) as connection:
        require_pushed_learner(connection, job_id)
    uploads = deployment.uploads
    require_room(
        deployment.engine,
        uploads,
        deployment.settings,
        job_id=job_id,
        sha256=body.sha256,
        size_bytes=body.size_bytes,
    )
    return _answer(uploads.begin(job_id, body.sha256, size_bytes=body.size_bytes))


@router.get("/{upload_id}")
def get_upload(deployment: Deployed, job_id: str, upload_id: UploadId) -> Upload:
    """Return how far an upload is."""
    return _answer(_find(deployment.uploads, job_id, upload_id))


@router.put("/{upload_id}", openapi_extra=_PART_BODY)
def put_part(deployment: Deployed, job_id: str, upload_id: UploadId, offset: Offset, part: Part) -> Upload:
    """Add the next part, raw bytes, at `offset`. Once answered it survives a power cut."""
    uploads = deployment.uploads
    return _answer(uploads.append(_find(uploads, job_id, upload_id), part, offset=offset))


@router.post("/{upload_id}:complete")
def complete_upload(deployment: Deployed, job_id: str, upload_id: UploadId) -> Upload:
    """Check the bytes against their sha256 and the safetensors format; `file` is what POST checkpoints takes."""
    uploads = deployment.uploads
    found = _find(uploads, job_id, upload_id)
    with noting_refusal(deployment.engine, job_id, upload=upload_id):
        return _answer(uploads.complete(found))


def _find(uploads: Uploads, job_id: str, upload_id: str) -> UploadFile:
    found = uploads.find(job_id, upload_id)
    if found is None:
        raise NotFound(
            f"an upload must have been begun and not be forgotten; got {upload_id} (job {job_id[:64]!r}). "
            "Begin it again with POST uploads."
        )
    return found


def _answer(found: UploadFile) -> Upload:
    file = FileRef(role="weights", root=UPLOADS_ROOT, key=found.key, sha256=found.sha256)
    return Upload(
        id=found.sha256,
        job=found.job_id,
        size_bytes=found.size_bytes,
        received_bytes=found.received_bytes,
        max_part_bytes=MAX_BODY_BYTES,
        is_complete=found.is_complete,
        file=file if found.is_complete else None,
    )
