"""What the service keeps and how much room there is: `GET /v1/storage`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from superbatch_server.schemas.base import Body


class Place(Body):
    """Where something is kept. Sizes are of the disk that holds it, null where the place is not a folder here."""

    name: Literal["data", "store", "uploads", "scratch"]
    location: str
    total_bytes: int | None
    free_bytes: int | None
    level: Literal["ok", "low", "full", "unknown"] = Field(description="low: below 10% or 10 GiB; full: 2% or 1 GiB.")


class CatalogSize(Body):
    """The database."""

    kind: Literal["sqlite", "postgresql"]
    version: str
    size_bytes: int | None = Field(description="Of its files, or of the database on its server.")


class UploadsUse(Body):
    """Uploaded checkpoints; `announced_bytes` counts against the quota."""

    num_uploads: int
    received_bytes: int
    announced_bytes: int
    quota_bytes: int


class QueueLength(Body):
    """Jobs that a supervisor may start, and jobs that wait for a trainer or a checkpoint first."""

    queued: int
    waiting: int
    oldest_queued_s: float | None = Field(description="Seconds since the first of the queued was put there.")
    live_supervisors: int


class Storage(Body):
    """Disks, catalog, uploads, queue and versions of this deployment, of one moment."""

    places: list[Place]
    catalog: CatalogSize
    uploads: UploadsUse
    queue: QueueLength
    versions: dict[str, str]
