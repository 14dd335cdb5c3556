"""Uploads of checkpoints, for trainers that share no root with the service (trainer-contract.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from superbatch_server.schemas.base import Body, Sha256Hex
from superbatch_server.schemas.models import FileRef

UPLOADS_ROOT = "uploads"
"""Root under which complete uploads are read; no other root may have this name."""

MAX_UPLOAD_BYTES = 1 << 42


class UploadStart(Body):
    """`POST /v1/jobs/{job}/uploads`: announces a safetensors file. The same one again is the same upload."""

    sha256: Sha256Hex
    size_bytes: Annotated[int, Field(ge=1, le=MAX_UPLOAD_BYTES)]


class Upload(Body):
    """An upload: how far it is, and once it is complete the file to name in `POST checkpoints`."""

    id: Sha256Hex = Field(description="The sha256 of the whole file.")
    job: str
    size_bytes: int
    received_bytes: int = Field(description="Where the next part begins.")
    max_part_bytes: int = Field(description="Longest part that a PUT may carry.")
    is_complete: bool
    file: FileRef | None = Field(description="Null until the upload is complete.")


class UploadList(Body):
    """`GET /v1/jobs/{job}/uploads`: complete ones first."""

    uploads: list[Upload]
