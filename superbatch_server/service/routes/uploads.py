"""Resumable uploads of checkpoints: begin, send parts in order, ask how far it is, complete, then POST checkpoints.

An upload is named by the sha256 of its file, so beginning it again is going on with it, whoever asks. A part is kept
whole or not at all. A part may carry its own digest (RFC 9530): one that lies is refused and nothing of it is kept.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from superbatch_server.schemas.errors import DigestMismatch, InUse, InvalidRequest, NotFound, Validation
from superbatch_server.schemas.models import FileRef
from superbatch_server.schemas.uploads import MAX_UPLOAD_BYTES, UPLOADS_ROOT, Upload, UploadList, UploadStart
from superbatch_server.service.access.body_limit import MAX_BODY_BYTES
from superbatch_server.service.catalog.checkpoints import checkpoints_of_upload, noting_refusal, require_pushed_learner
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.context import Deployed
from superbatch_server.service.upkeep.upload_sweep import require_room
from superbatch_server.storage.uploads import UploadFile, Uploads

router = APIRouter(prefix="/v1/jobs/{job_id}/uploads", tags=["trainers"])

UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Offset = Annotated[int, Query(ge=0, le=MAX_UPLOAD_BYTES, description="received_bytes of the upload.")]
DigestHeader = Annotated[
    str | None, Header(max_length=1024, description="RFC 9530: sha-256=:<base64>:; checked where it is given.")
]
_SHA256_MEMBER = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")


@dataclass(frozen=True)
class StatedDigests:
    """What a client says of the bytes it sends: of this part, of the whole file."""

    of_part: str | None
    of_file: str | None


def _digests(content_digest: DigestHeader = None, repr_digest: DigestHeader = None) -> StatedDigests:
    return StatedDigests(content_digest, repr_digest)


Digests = Annotated[StatedDigests, Depends(_digests)]


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
    with uploads.reserving():
        require_room(
            deployment.engine,
            uploads,
            deployment.settings,
            job_id=job_id,
            sha256=body.sha256,
            size_bytes=body.size_bytes,
        )
        return _answer(uploads.begin(job_id, body.sha256, size_bytes=body.size_bytes))


@router.get("")
def list_uploads(deployment: Deployed, job_id: str) -> UploadList:
    """Return the uploads of a job, complete ones first."""
    with read(deployment.engine) as connection:
        job_row(connection, job_id)
    return UploadList(uploads=[_answer(found) for found in deployment.uploads.of_job(job_id)])


@router.get("/{upload_id}")
def get_upload(deployment: Deployed, job_id: str, upload_id: UploadId) -> Upload:
    """Return how far an upload is."""
    return _answer(_find(deployment.uploads, job_id, upload_id))


@router.head("/{upload_id}", response_class=Response)
def head_upload(deployment: Deployed, job_id: str, upload_id: UploadId) -> Response:
    """Return how far an upload is, in the headers Upload-Offset, Upload-Length and Upload-Complete."""
    found = _find(deployment.uploads, job_id, upload_id)
    headers = {
        "Upload-Offset": str(found.received_bytes),
        "Upload-Length": str(found.size_bytes),
        "Upload-Complete": "?1" if found.is_complete else "?0",
        "Cache-Control": "no-store",
    }
    return Response(headers=headers)


@router.put("/{upload_id}", openapi_extra=_PART_BODY)
def put_part(
    deployment: Deployed, job_id: str, upload_id: UploadId, *, offset: Offset, part: Part, digests: Digests
) -> Upload:
    """Add the next part, raw bytes, at `offset`. Once answered it survives a power cut.

    A part that is there already, byte for byte, is answered as done; other bytes there are `wrong_offset`.
    """
    _check_digest("Content-Digest", digests.of_part, sha256(part).digest(), what=f"part at byte {offset}")
    _check_digest("Repr-Digest", digests.of_file, bytes.fromhex(upload_id), what="whole file")
    uploads = deployment.uploads
    return _answer(uploads.append(_find(uploads, job_id, upload_id), part, offset=offset))


@router.delete("/{upload_id}", status_code=204)
def delete_upload(deployment: Deployed, job_id: str, upload_id: UploadId) -> None:
    """Give an upload up, whole or not; refused while a checkpoint refers to it or a part of it is being written."""
    uploads = deployment.uploads
    found = _find(uploads, job_id, upload_id)
    # Nobody is waited for with the catalog in hand.
    with uploads.at_rest(found), write(deployment.engine) as connection:
        job_row(connection, job_id, lock=True)  # a push of this file comes before or after
        users = checkpoints_of_upload(connection, job_id, upload_id)
        if users:
            raise InUse(
                f"an upload can be deleted when no checkpoint refers to it; got {', '.join(users[:3])} (job {job_id}, "
                f"upload {upload_id}). Its file goes by itself when the checkpoint is superseded for good."
            )
        uploads.remove(found)


@router.post("/{upload_id}:complete")
def complete_upload(deployment: Deployed, job_id: str, upload_id: UploadId) -> Upload:
    """Check the bytes against their sha256 and the safetensors format; `file` is what POST checkpoints takes."""
    uploads = deployment.uploads
    found = _find(uploads, job_id, upload_id)
    with noting_refusal(deployment.engine, job_id, upload=upload_id):
        return _answer(uploads.complete(found))


def _check_digest(header: str, value: str | None, found: bytes, *, what: str) -> None:
    """Compare the sha-256 of a digest header; another algorithm alone is nothing that could be checked."""
    if value is None or not (member := _SHA256_MEMBER.search(value)):
        return
    try:
        stated = base64.b64decode(member[1], validate=True)
    except binascii.Error as error:
        raise Validation(
            f"{header} must be sha-256=:<base64 of 32 bytes>:; got {value[:100]!r} (header). See RFC 9530."
        ) from error
    if stated != found:
        raise DigestMismatch(
            f"a {header} must be the sha256 of the {what}, {found.hex()}; got {stated.hex()[:64]} (header). "
            "Nothing of the part was kept; send it again."
        )


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
