"""Room for uploads: how much they may take, and which of them nobody needs any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Engine

from superbatch_server.schemas.errors import UploadQuota
from superbatch_server.service.catalog.checkpoints import uploaded_keys
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.settings import Settings
from superbatch_server.storage.uploads import UploadFile, Uploads

log = logging.getLogger("superbatch.uploads")

SWEEP_S = 60.0
GRACE_S = 600.0
"""What was asked for this lately stays: it may be about to be pushed once more."""

MAX_UNDER_WAY, MAX_OF_JOB = 16, 1000
"""Uploads of one job: a trainer sends one at a time, and every beginning looks at all of them."""


def remove_unneeded(
    engine: Engine, uploads: Uploads, settings: Settings, *, clock: Callable[[], float] = time.time
) -> list[UploadFile]:
    """Remove the uploads that no checkpoint needs, and return them.

    A file stays while its checkpoint may score (RECEIVED, VERIFYING, ACTIVE, the newest `uploads_kept` SUPERSEDED of a
    job). Others that were pushed go after a grace of ten minutes, and what was never pushed after `upload_expiry_s`.
    Ages are read from the clock of this machine: one that jumps forward ends uploads early, whose trainers then begin
    them again; it never touches a file in use.
    """
    with read(engine) as connection:
        is_needed = uploaded_keys(connection, kept=settings.uploads_kept)
    now_s = clock()
    unneeded = [
        found
        for found in uploads.all()
        if now_s - found.touched_s > _time_to_live_s(found, is_needed, expiry_s=settings.upload_expiry_s)
    ]
    for found in unneeded:
        found.path.unlink(missing_ok=True)
        log.info("upload %s is removed, %d of %d bytes", found.key, found.received_bytes, found.size_bytes)
    return unneeded


def require_room(
    engine: Engine, uploads: Uploads, settings: Settings, *, job_id: str, sha256: str, size_bytes: int
) -> None:
    """Raise UploadQuota when another upload of this size has no room, once what nobody needs is removed.

    What is said stays true while the caller holds `uploads.reserving()`.
    """
    found = uploads.find(job_id, sha256)
    if found is not None and (found.is_complete or found.size_bytes == size_bytes):
        return
    there = [each for each in uploads.all() if found is None or each.path != found.path]
    if not _refusals(uploads, there, settings, job_id=job_id, size_bytes=size_bytes):
        return
    removed = {each.path for each in remove_unneeded(engine, uploads, settings)}
    there = [each for each in there if each.path not in removed]
    if refusals := _refusals(uploads, there, settings, job_id=job_id, size_bytes=size_bytes):
        raise UploadQuota(refusals[0])


def _time_to_live_s(found: UploadFile, is_needed: Mapping[str, bool], *, expiry_s: float) -> float:
    if not found.is_complete or found.key not in is_needed:
        return expiry_s
    return float("inf") if is_needed[found.key] else GRACE_S


def _refusals(
    uploads: Uploads, there: Sequence[UploadFile], settings: Settings, *, job_id: str, size_bytes: int
) -> list[str]:
    """Return why another upload of this size has no room beside those that are there."""
    of_job = [found for found in there if found.job_id == job_id]
    under_way = sum(not found.is_complete for found in of_job)
    refusals = []
    if under_way >= MAX_UNDER_WAY or len(of_job) >= MAX_OF_JOB:
        refusals.append(
            f"a job may have {MAX_UNDER_WAY} uploads under way and {MAX_OF_JOB} in all; got another beside {under_way} "
            f"and {len(of_job)} (job {job_id}). Complete or DELETE one; what is abandoned goes after "
            "SUPERBATCH_UPLOAD_EXPIRY_S."
        )
    excess = _excess(uploads, there, settings, size_bytes)
    if excess > 0:
        refusals.append(
            f"uploads must fit into {settings.upload_quota_bytes} bytes and onto the disk; got one of {size_bytes}, "
            f"{excess} too many (job {job_id}, SUPERBATCH_UPLOAD_QUOTA_BYTES). Raise the quota, lower "
            "SUPERBATCH_UPLOADS_KEPT, or push through a root."
        )
    return refusals


def _excess(uploads: Uploads, there: Sequence[UploadFile], settings: Settings, size_bytes: int) -> int:
    announced = sum(found.size_bytes for found in there)
    missing = sum(found.size_bytes - found.received_bytes for found in there)
    return max(announced + size_bytes - settings.upload_quota_bytes, missing + size_bytes - uploads.free_bytes())
