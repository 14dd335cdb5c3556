"""Rows that a job leaves out of every batch not yet composed.

Each request that names new rows makes the next version of the job's set. A schedule row names the set by its digest,
which is of the content alone: a replay finds the same rows under it, whichever job they were excluded from.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, RowMapping, insert, select

from superbatch.formats.digests import exclusions_digest
from superbatch.formats.uid import UID_BYTES
from superbatch_server.schemas.attempts import ExclusionSet
from superbatch_server.schemas.errors import NotFound, TooManyExcluded, WrongState
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.trainers import ExclusionRequest, Exclusions, ExclusionVersion
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import job_row, update_job
from superbatch_server.service.catalog.tables import exclusions

MAX_EXCLUDED = 1_000_000
"""16 bytes each: a job's whole set is read for each request, and sent to its driver as 32 MB."""

SHOWN_VERSIONS = 100


def exclude(connection: Connection, job_id: str, request: ExclusionRequest) -> Exclusions:
    """Add rows to what a job leaves out; rows that are excluded already change nothing."""
    job = job_row(connection, job_id, lock=True)
    replayed = CurateSpec.model_validate_json(job["spec"]).refresh.replay
    if replayed is not None:
        raise WrongState(
            f"a job that replays another composes what was recorded; this one replays {replayed} (job {job_id}). "
            "Exclude the rows from a job of its own schedule."
        )
    known = _uids_since(connection, job_id, version=0)
    new = sorted({bytes.fromhex(uid) for uid in request.uids} - known)
    if len(known) + len(new) > MAX_EXCLUDED:
        raise TooManyExcluded(
            f"a job leaves out at most {MAX_EXCLUDED} rows; got {len(new)} more than its {len(known)} (job {job_id}). "
            "Register a data set without them."
        )
    if new:
        _add_version(connection, job, known, new, reason=request.reason)
    return get_exclusions(connection, job_id)


def get_exclusions(connection: Connection, job_id: str) -> Exclusions:
    """Return what a job leaves out, and how far the search through its published batches is."""
    job = job_row(connection, job_id)
    query = select(exclusions).where(exclusions.c.job_id == job_id).order_by(exclusions.c.version.desc())
    rows = list(connection.execute(query.limit(SHOWN_VERSIONS)).mappings())
    return Exclusions(
        job=job_id,
        digest=job["exclusions_digest"],
        num_uids=rows[0]["num_uids"] if rows else 0,
        is_searching=job["is_searching"],
        num_revoked=job["num_revoked"],
        versions=[_version(row) for row in rows],
    )


def exclusion_set(connection: Connection, digest: str) -> ExclusionSet:
    """Return the rows under a digest, of whichever job they were excluded from."""
    query = select(exclusions.c.job_id, exclusions.c.version).where(exclusions.c.digest == digest).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"a set of excluded rows must be some job's; got {digest!r} (exclusions). Read refresh again.")
    parts = select(exclusions.c.uids).where(exclusions.c.job_id == row.job_id, exclusions.c.version <= row.version)
    uids = sorted(_split(connection.execute(parts).scalars()))
    return ExclusionSet(digest=digest, uids=b"".join(uids).hex())


def version_of(connection: Connection, job_id: str, digest: str | None) -> int:
    """Return which version of a job's own set has this digest; 0 for none."""
    query = select(exclusions.c.version).where(exclusions.c.job_id == job_id, exclusions.c.digest == digest)
    return connection.execute(query).scalar_one_or_none() or 0


def reasons_since(connection: Connection, job_id: str, *, version: int) -> dict[bytes, str]:
    """Return the uids that came after a version, each with the reason it was excluded for."""
    query = select(exclusions.c.uids, exclusions.c.reason).where(
        exclusions.c.job_id == job_id, exclusions.c.version > version
    )
    return {uid: reason for uids, reason in connection.execute(query) for uid in _split([uids])}


def _add_version(connection: Connection, job: RowMapping, known: set[bytes], new: list[bytes], *, reason: str) -> None:
    version, num_uids = job["exclusions_version"] + 1, len(known) + len(new)
    digest = exclusions_digest([*known, *new]).hex()
    connection.execute(
        insert(exclusions).values(
            job_id=job["id"],
            version=version,
            digest=digest,
            reason=reason,
            uids=b"".join(new),
            num_uids=num_uids,
            created_ms=now_ms(connection),
        )
    )
    update_job(
        connection,
        job["id"],
        exclusions_version=version,
        exclusions_digest=digest,
        is_searching=job["next_seq"] > 0,
    )
    message = f"{len(new)} more rows are left out of batches from now on, {num_uids} in all: {reason}"
    add_event(connection, job["id"], "rows_excluded", message[:4000], {"rows": len(new), "version": version})


def _uids_since(connection: Connection, job_id: str, *, version: int) -> set[bytes]:
    return set(reasons_since(connection, job_id, version=version))


def _split(parts: Iterable[bytes]) -> list[bytes]:
    return [part[i : i + UID_BYTES] for part in parts for i in range(0, len(part), UID_BYTES)]


def _version(row: RowMapping) -> ExclusionVersion:
    return ExclusionVersion(
        version=row["version"],
        digest=row["digest"],
        num_uids=row["num_uids"],
        reason=row["reason"],
        created_at=rfc3339(row["created_ms"]),
    )
