"""Garbage among the objects of the store, one page of a listing at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, select

from superbatch_server.schemas.garbage import GarbageKind
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.cache_uses import forget_entries, needed_entries
from superbatch_server.service.catalog.published import published_objects
from superbatch_server.service.catalog.tables import jobs
from superbatch_server.service.upkeep.garbage.found import Garbage
from superbatch_server.service.upkeep.garbage.keys import CacheObject, JobObject, Partial, parse_key
from superbatch_server.storage.store import StoredFile

FINAL = (JobState.SUCCEEDED, JobState.CANCELLED)
"""Ends that no `retry` undoes: nothing of such a job is ever published again."""

HELD = (JobState.RUNNING, JobState.CANCELLING)

PARTIAL_AGE_S = 3600.0
"""A write takes seconds; a temporary file as old as this has no writer any more."""


def unknown_keys(page: Sequence[StoredFile]) -> list[str]:
    """Return the keys that the service did not give."""
    return [file.key for file in page if parse_key(file.key) is None]


def partial_garbage(page: Sequence[StoredFile], *, now_s: float) -> list[Garbage]:
    """Return the unfinished writes of dead writers."""
    return [
        _garbage(GarbageKind.PARTIAL, file)
        for file in page
        if isinstance(parse_key(file.key), Partial) and now_s - file.written_s > PARTIAL_AGE_S
    ]


def job_garbage(connection: Connection, page: Sequence[StoredFile]) -> list[Garbage]:
    """Return the objects of jobs that are not published and never will be."""
    objects = [(file, found) for file in page if isinstance(found := parse_key(file.key), JobObject)]
    seqs: dict[str, set[int]] = defaultdict(set)
    for _, found in objects:
        seqs[found.job_id] |= {found.seq} if found.seq is not None else set()
    columns = select(jobs.c.id, jobs.c.history_id, jobs.c.state, jobs.c.next_seq).where(jobs.c.id.in_(seqs))
    known = {row["id"]: row for row in connection.execute(columns).mappings()}
    published = {key for job_id in known for key in published_objects(connection, job_id, seqs[job_id])}
    garbage: list[Garbage] = []
    for file, found in objects:
        job = known.get(found.job_id)
        is_dead = job is None or (
            job["history_id"] == found.history_id
            and found.seq is not None
            and file.key not in published
            and (found.seq < job["next_seq"] or job["state"] in FINAL)
        )
        if is_dead:
            garbage.append(_garbage(found.kind, file))
    return garbage


def cache_garbage(
    connection: Connection, page: Sequence[StoredFile], *, younger_than_ms: int, forget: bool
) -> list[Garbage]:
    """Return the indexes and embeddings that lost the race for their key, or that serve nothing registered any more.

    Args:
        younger_than_ms: an entry committed after this moment stays, by the clock of the database.
        forget: remove the entries that serve nothing from the catalog, so that their objects may go.
    """
    objects = [(file, found) for file in page if isinstance(found := parse_key(file.key), CacheObject)]
    keys = sorted({found.cache_key for _, found in objects})
    # What holds its job is read before the entries: an attempt that commits in between is still seen as holding it.
    held = _held_attempts(connection, {found.job_id for _, found in objects})
    committed, needed = needed_entries(connection, keys, younger_than_ms=younger_than_ms, lock=forget)
    gone = set(committed) - needed
    if forget:
        forget_entries(connection, gone)
    visible = {object_key for cache_key, object_key in committed.items() if cache_key in needed}
    return [
        _garbage(found.kind, file)
        for file, found in objects
        if file.key not in visible and (found.job_id, found.token) not in held
    ]


def _held_attempts(connection: Connection, job_ids: set[str]) -> set[tuple[str, int]]:
    query = select(jobs.c.id, jobs.c.token).where(jobs.c.id.in_(job_ids), jobs.c.state.in_(HELD))
    return {(row.id, row.token) for row in connection.execute(query)}


def _garbage(kind: GarbageKind, file: StoredFile) -> Garbage:
    return Garbage(kind, file.key, file.size_bytes, file.written_s)
