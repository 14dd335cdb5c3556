"""`/jobs/{id}/pictures/{dataset_index}`: a row's picture, small; always an image, whatever the row holds."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import Connection

from superbatch_server.schemas.errors import ApiError, NotFound
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployment
from superbatch_server.service.dashboard.rendering import SAFETY_HEADERS
from superbatch_server.service.dashboard.scores.content import read_part
from superbatch_server.service.dashboard.scores.thumbnails import MAX_BYTES, SIDE, Thumbnail, placeholder, thumbnail
from superbatch_server.service.routes.answers import is_known
from superbatch_server.service.scored_batches.bounded_cache import BoundedCache
from superbatch_server.service.scored_batches.published import find_job
from superbatch_server.service.scored_batches.row_places import RowPlace
from superbatch_server.storage.roots import find_root

MAX_DECODERS = 2
MAX_WAIT_S = 20.0
CACHE_BYTES = 16 << 20
VERSION = 1
"""Part of the ETag: raise it when a thumbnail is made otherwise."""

_KEPT = "private, max-age=86400, immutable"
_NOT_KEPT = "private, no-store"


class Pictures:
    """Makes thumbnails, at most MAX_DECODERS at a time, and keeps the newest.

    Memory: the cache, and MAX_DECODERS times MAX_BYTES encoded and a decoded picture with one copy, 160 MiB.
    """

    def __init__(self) -> None:
        self._made: BoundedCache[Thumbnail] = BoundedCache(max_bytes=CACHE_BYTES)
        self._decoders = CapacityLimiter(MAX_DECODERS)

    async def in_turn(self, show: Callable[[], Response]) -> Response:
        """Call `show` in one of MAX_DECODERS threads; who waits for MAX_WAIT_S holds no thread, and is told "busy"."""
        with move_on_after(MAX_WAIT_S):
            return await to_thread.run_sync(show, limiter=self._decoders)
        return _response(placeholder("the service is busy; load it again"))

    def answer(self, request: Request, deployment: Deployment, *, job_id: str, dataset_index: int) -> Response:
        """Return a row's picture. Raises: NotFound when the job or the row does not exist."""
        with read(deployment.engine) as connection:
            root_name, row = _find(connection, deployment, job_id, dataset_index)
        etag = f'"thumbnail-{VERSION}-{SIDE}-{row.a_sha256.hex()[:32]}"'
        if row.a_sha256 and is_known(request.headers.get("If-None-Match"), etag):
            return Response(status_code=304, headers={"ETag": etag, "Cache-Control": _KEPT})
        made = self._thumbnail(deployment, root_name, row)
        return _response(made, etag=etag)

    def _thumbnail(self, deployment: Deployment, root_name: str, row: RowPlace) -> Thumbnail:
        if not row.is_indexed:
            return placeholder("its index file cannot be read")
        if row.a_offset is None or not row.a_length:
            return placeholder("the row has no picture")
        if row.a_length > MAX_BYTES:
            return placeholder(f"more than {MAX_BYTES >> 20} MiB")
        return self._made.get(
            row.a_sha256.hex(),
            lambda: _make(deployment, root_name, row),
            # What could not be shown is tried again: a shard may come back.
            lambda made: CACHE_BYTES + 1 if made.reason else len(made.content) + 200,
        )


def _response(made: Thumbnail, *, etag: str = "") -> Response:
    headers = {**SAFETY_HEADERS, "Cache-Control": _NOT_KEPT if made.reason else _KEPT}
    if not made.reason:
        headers["ETag"] = etag
    return Response(made.content, media_type=made.media_type, headers=headers)


def _find(connection: Connection, deployment: Deployment, job_id: str, dataset_index: int) -> tuple[str, RowPlace]:
    job = find_job(connection, job_id)
    rows = deployment.scored_batches.rows
    row = rows.describe(connection, deployment.store, job.dataset_id, [dataset_index]).get(dataset_index)
    if row is None:
        raise NotFound(
            f"a row must be in the job's data set; got dataset_index {dataset_index} (job {job_id}). Ask for another."
        )
    return job.root, row


def _make(deployment: Deployment, root_name: str, row: RowPlace) -> Thumbnail:
    assert row.a_offset is not None
    assert row.a_length is not None
    try:
        root = find_root(deployment.roots, root_name)
        data = read_part(root, row.shard.key, offset=row.a_offset, length=row.a_length)
    except (ApiError, OSError):
        return placeholder("its shard cannot be read")
    if sha256(data).digest() != row.a_sha256:
        return placeholder("its shard has changed since it was indexed")
    return thumbnail(data)
