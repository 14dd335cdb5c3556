"""Garbage on this machine: scratch folders of dead attempts, logs and uploads of deleted jobs.

Everything is listed before the catalog is asked: an attempt that begins, or a job that is submitted, after the listing
has nothing in it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, select

from superbatch_server.schemas.garbage import GarbageKind
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.tables import attempts, jobs
from superbatch_server.service.settings import Settings
from superbatch_server.service.upkeep.garbage.found import Garbage
from superbatch_server.service.upkeep.garbage.stored import HELD
from superbatch_server.storage.scratch_names import SCRATCH_NAME, ray_folder, scratch_name
from superbatch_server.storage.uploads import Uploads

AT_ONCE = 500
Item = TypeVar("Item")
_LOG = re.compile(r"([a-z]+_[0-9a-f]{16})-\d{1,18}\.log")


def folder_garbage(engine: Engine, settings: Settings, uploads: Uploads) -> Iterator[tuple[int, list[Garbage]]]:
    """Yield how many files were looked at and which of them are garbage, some hundred at a time."""
    scratch_dir = settings.data_dir / "scratch"
    folders = [path for path in _entries(scratch_dir) if SCRATCH_NAME.fullmatch(path.name)]
    with read(engine) as connection:
        dead = _dead_scratch(connection, scratch_dir, folders)
    yield len(folders), [_of_folder(path) for path in dead]
    for paths in _batches(path for path in _entries(settings.logs_dir) if _LOG.fullmatch(path.name)):
        with read(engine) as connection:
            gone = _deleted_jobs(connection, {_job_of_log(path) for path in paths})
        found = [path for path in paths if _job_of_log(path) in gone]
        yield len(paths), [each for path in found if (each := _of_file(GarbageKind.ATTEMPT_LOG, path))]
    for files in _batches(uploads.all()):
        with read(engine) as connection:
            gone = _deleted_jobs(connection, {file.job_id for file in files})
        orphans = [file for file in files if file.job_id in gone]
        yield (
            len(files),
            [Garbage(GarbageKind.UPLOAD, str(file.path), file.received_bytes, file.touched_s) for file in orphans],
        )


def remove_from_disk(garbage: Iterable[Garbage]) -> None:
    """Remove files and folders; the folder of a job's last upload goes too."""
    for each in garbage:
        path = Path(each.name)
        if each.kind is GarbageKind.SCRATCH:
            shutil.rmtree(path, ignore_errors=True)
            continue
        path.unlink(missing_ok=True)
        if each.kind is GarbageKind.UPLOAD:
            with suppress(OSError):
                path.parent.rmdir()


def _dead_scratch(connection: Connection, scratch_dir: Path, folders: list[Path]) -> list[Path]:
    """Return the folders of no attempt that may still run, and Ray's folders of attempts that are known to be over."""
    query = select(attempts.c.job_id, attempts.c.token, attempts.c.ended_ms, jobs.c.state, jobs.c.token.label("newest"))
    rows = connection.execution_options(stream_results=True, yield_per=AT_ONCE).execute(query.join(jobs))
    alive: set[str] = set()
    elsewhere: list[Path] = []
    for row in rows:
        holds = row.token == row.newest and row.state in HELD
        if row.ended_ms is None or holds:
            alive.add(scratch_name(row.job_id, row.token))
        elif (ray := ray_folder(scratch_dir, row.job_id, row.token)).is_dir():
            elsewhere.append(ray)
    below = set(folders)
    return [path for path in folders if path.name not in alive] + [ray for ray in elsewhere if ray.parent not in below]


def _deleted_jobs(connection: Connection, job_ids: set[str]) -> set[str]:
    return job_ids - set(connection.execute(select(jobs.c.id).where(jobs.c.id.in_(job_ids))).scalars())


def _job_of_log(path: Path) -> str:
    found = _LOG.fullmatch(path.name)
    assert found is not None
    return found[1]


def _of_file(kind: GarbageKind, path: Path) -> Garbage | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return Garbage(kind, str(path), stat.st_size, stat.st_mtime)


def _of_folder(folder: Path) -> Garbage:
    """Return a folder with all that is in it; it is as young as the youngest file."""
    size_bytes, changed_s = 0, 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            stat = path.lstat()
            size_bytes += stat.st_size if path.is_file() else 0
            changed_s = max(changed_s, stat.st_mtime)
    return Garbage(GarbageKind.SCRATCH, str(folder), size_bytes, changed_s)


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from folder.iterdir()


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch
