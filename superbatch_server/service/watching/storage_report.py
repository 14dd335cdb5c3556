"""How much room there is, how large what is kept has become, and whether anybody works on the queue."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, text

from superbatch_server.schemas.storage import CatalogSize, Place, QueueLength, Storage, UploadsUse
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployment
from superbatch_server.service.settings import Settings
from superbatch_server.service.watching.supervision import Supervision, read_supervision
from superbatch_server.storage.places import local_folder
from superbatch_server.storage.uploads import Uploads

GIB = 1 << 30
LOW_FRACTION, LOW_BYTES = 0.10, 10 * GIB
FULL_FRACTION, FULL_BYTES = 0.02, 1 * GIB
DISTRIBUTIONS = ("superbatch-server", "superbatch", "fastapi", "sqlalchemy", "pyarrow")


def read_storage(deployment: Deployment) -> tuple[Storage, Supervision]:
    """Return the report, and the supervisors that `queue` counts."""
    with read(deployment.engine) as connection:
        supervision = read_supervision(connection)
        catalog = _catalog(connection)
    report = Storage(
        places=_places(deployment.settings),
        catalog=catalog,
        uploads=_uploads(deployment.uploads, deployment.settings),
        queue=QueueLength(
            queued=supervision.queued,
            waiting=supervision.waiting,
            oldest_queued_s=supervision.oldest_queued_s,
            live_supervisors=supervision.num_live,
        ),
        versions={**{name: version(name) for name in DISTRIBUTIONS}, "python": platform.python_version()},
    )
    return report, supervision


def level_of(free_bytes: int, total_bytes: int) -> Literal["ok", "low", "full"]:
    """Return how near a disk is to its end; on a small disk the share counts, on a large one the bytes."""
    if free_bytes < min(FULL_BYTES, FULL_FRACTION * total_bytes):
        return "full"
    return "low" if free_bytes < min(LOW_BYTES, LOW_FRACTION * total_bytes) else "ok"


def _places(settings: Settings) -> list[Place]:
    return [
        _place("data", settings.data_dir, str(settings.data_dir)),
        _place("store", local_folder(settings.store_url), settings.store_url),
        _place("uploads", settings.uploads_dir, str(settings.uploads_dir)),
        _place("scratch", settings.data_dir / "scratch", str(settings.data_dir / "scratch")),
    ]


def _place(name: Literal["data", "store", "uploads", "scratch"], folder: Path | None, location: str) -> Place:
    """Ask the disk of a folder; one that is not made yet will lie on the disk of its nearest parent."""
    unknown = Place(name=name, location=location, total_bytes=None, free_bytes=None, level="unknown")
    if folder is None:
        return unknown
    there = next((each for each in (folder, *folder.parents) if each.is_dir()), folder)
    try:
        usage = shutil.disk_usage(there)
    except OSError:
        return unknown
    level = level_of(usage.free, usage.total)
    return unknown.model_copy(update={"total_bytes": usage.total, "free_bytes": usage.free, "level": level})


def _catalog(connection: Connection) -> CatalogSize:
    if connection.dialect.name == "postgresql":
        size, server = connection.execute(text("SELECT pg_database_size(current_database()), version()")).one()
        return CatalogSize(kind="postgresql", version=str(server).split(",", maxsplit=1)[0], size_bytes=size)
    path = connection.engine.url.database
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal")] if path else []
    size = sum(os.stat(file).st_size for file in files if file.is_file())
    number = connection.execute(text("SELECT sqlite_version()")).scalar_one()
    return CatalogSize(kind="sqlite", version=f"SQLite {number}", size_bytes=size)


def _uploads(uploads: Uploads, settings: Settings) -> UploadsUse:
    there = list(uploads.all())
    return UploadsUse(
        num_uploads=len(there),
        received_bytes=sum(each.received_bytes for each in there),
        announced_bytes=sum(each.size_bytes for each in there),
        quota_bytes=settings.upload_quota_bytes,
    )
