"""Looks through published batch lists for rows that were excluded since, and withdraws the batches that hold one.

A request to exclude rows is answered at once; this search follows it, newest batches first, since those may not be
trained yet. A list whose batches were composed before a request but committed after it is searched as well. Safe to
stop anywhere and to run in two supervisors at once: what a segment was searched for is noted with what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from sqlalchemy import Connection, Engine, RowMapping, select, update

from superbatch.formats.errors import DigestMismatch
from superbatch.formats.uid import UID_BYTES
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.exclusions import reasons_since
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.revoked import revoke
from superbatch_server.service.catalog.tables import jobs, segments
from superbatch_server.storage.store import ArtifactStore

SEGMENTS_AT_ONCE = 64
"""Searched between two writes to the catalog."""


def search_pending(engine: Engine, store: ArtifactStore) -> bool:
    """Search some segments of every job that excluded rows since they were published; False when none is left."""
    with read(engine) as connection:
        job_ids = list(connection.execute(select(jobs.c.id).where(jobs.c.is_searching)).scalars())
    failed: list[Exception] = []
    for job_id in job_ids:
        try:
            _search(engine, store, job_id)
        except Exception as error:  # one job's damaged list must not hold up the others
            failed.append(error)
    if failed:
        raise ExceptionGroup("lists that could not be searched for excluded rows", failed)
    return bool(job_ids)


def _search(engine: Engine, store: ArtifactStore, job_id: str) -> None:
    """Search the newest segments of a job that need it."""
    with read(engine) as connection:
        job = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one_or_none()
        if job is None:
            return
        pending = _pending(connection, job, limit=SEGMENTS_AT_ONCE)
        oldest = min((row["searched_version"] for row in pending), default=0)
        excluded = reasons_since(connection, job_id, version=oldest) if pending else {}
    found = {seq: reason for row in pending for seq, reason in excluded_in(store, row, excluded).items()}
    with write(engine) as connection:
        _note(connection, job, pending, found)


def excluded_in(store: ArtifactStore, segment: RowMapping, excluded: Mapping[bytes, str]) -> dict[int, str]:
    """Return the batches of a segment that hold an excluded row, each with the reason of its first such row.

    Raises: DigestMismatch when the list is not as it was published; ObjectMissing, Unavailable.
    """
    import pyarrow as pa  # here, because a supervisor without exclusions has no use for it
    import pyarrow.compute as pc

    from superbatch.formats.batch_list import read_uids

    data = store.get(segment["list_key"])
    if (found := sha256(data).hexdigest()) != segment["sha256"]:
        raise DigestMismatch(
            f"a published list must have the sha256 of its segment, {segment['sha256']}; got {found} "
            f"({segment['list_key']}). Bring the store back as it was; its backup has the file."
        )
    uids = read_uids(data)
    b = len(uids) // segment["num_batches"]
    excluded_uids = pa.array(list(excluded), pa.binary(UID_BYTES))
    hits = pc.indices_nonzero(pc.is_in(uids, value_set=excluded_uids)).to_pylist()
    reasons: dict[int, str] = {}
    for row in hits:
        reasons.setdefault(segment["first_seq"] + row // b, f"holds an excluded row: {excluded[uids[row].as_py()]}")
    return reasons


def _pending(connection: Connection, job: RowMapping, *, limit: int) -> list[RowMapping]:
    query = select(segments).where(
        segments.c.job_id == job["id"], segments.c.searched_version < job["exclusions_version"]
    )
    return list(connection.execute(query.order_by(segments.c.first_seq.desc()).limit(limit)).mappings())


def _note(connection: Connection, job: RowMapping, searched: list[RowMapping], found: Mapping[int, str]) -> None:
    """Record what was found, and end the search when nothing is left for the newest version of the set."""
    now = job_row(connection, job["id"], lock=True)
    num_new = revoke(connection, job["id"], found)
    if num_new:
        message = f"{num_new} published batches are withdrawn: they hold rows that were excluded since"
        add_event(connection, job["id"], "revoked", message, {"batches": num_new})
    version = job["exclusions_version"]
    these = (segments.c.job_id == job["id"]) & segments.c.first_seq.in_([row["first_seq"] for row in searched])
    behind = these & (segments.c.searched_version < version)
    connection.execute(update(segments).where(behind).values(searched_version=version))
    if not _pending(connection, now, limit=1):
        connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(is_searching=False))
