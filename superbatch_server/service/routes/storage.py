"""Room and sizes, for those who watch a deployment."""

from __future__ import annotations

from fastapi import APIRouter

from superbatch_server.schemas.storage import Storage
from superbatch_server.service.context import Deployed
from superbatch_server.service.watching.storage_report import read_storage

router = APIRouter(prefix="/v1/storage", tags=["service"])


@router.get("")
def get_storage(deployment: Deployed) -> Storage:
    """Return disks, catalog, uploads, queue and versions: the numbers of the page /health."""
    return read_storage(deployment)[0]
