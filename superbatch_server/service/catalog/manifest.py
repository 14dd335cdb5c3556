"""The manifest of a job as a trainer polls it: the head of the log and a page of its segments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select

from superbatch.formats.canonical import canonical_json
from superbatch.formats.manifest import Manifest, NumericsProfile, Revoked
from superbatch.formats.segments import Segment
from superbatch_server.schemas.errors import BehindRetention, NotFound, OtherHistory, SeqBeyondLog
from superbatch_server.schemas.jobs import CurateSpec, JobState
from superbatch_server.service.catalog.policy import policy_of
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.revoked import revoked_ranges
from superbatch_server.service.catalog.segments import segment_of
from superbatch_server.service.catalog.tables import datasets, jobs, models, segments

MAX_PAGE_BYTES = 60_000
"""Below the contract's 64 KiB with room for the page's own fields to grow."""

MAX_PAGE_SEGMENTS = 400
"""More than fit: a segment takes at least 300 bytes."""

REVOKED_BEHIND = 1024
"""How far before `after` a page lists revoked batches: a reader that reads ahead still holds those."""

MAX_BEHIND_BYTES = 12_000
"""Room for those; where it is too little, the ones nearest to `after` are listed."""

_END_OF_STATE = {JobState.SUCCEEDED: "complete", JobState.CANCELLED: "cancelled", JobState.FAILED: "failed"}


@dataclass(frozen=True)
class Page:
    """A manifest ready to be sent; `has_news` when it holds segments or the log has ended."""

    text: bytes
    etag: str
    has_news: bool


@dataclass(frozen=True)
class PublishedList:
    """A batch list that some segment refers to."""

    key: str
    bytes: int
    sha256: str


def log_version(connection: Connection, job_id: str) -> tuple[object, ...]:
    """Return what changes whenever the manifest does: one small row, for pollers."""
    names = ("history_id", "next_seq", "state", "eligible_digest", "numerics_digest", "num_revoked")
    columns = [*(jobs.c[name] for name in names), _oldest_seq(job_id).scalar_subquery()]
    return tuple(connection.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none() or ())


def manifest_page(connection: Connection, job_id: str, *, history: str | None, after: int) -> Page:
    """Return the manifest with the segments that hold batches from `after` on, as many as fit one page.

    Raises:
        OtherHistory: the job's log is not the one that the poller knows.
        BehindRetention: batch `after` is no longer kept.
        SeqBeyondLog: `after` is greater than next_seq.
    """
    job = job_row(connection, job_id)
    if history is not None and history != job["history_id"]:
        raise OtherHistory(
            f"a cursor belongs to one log; got history {history!r}, the log of this job is {job['history_id']!r} "
            f"(job {job_id}). Start from a trainer checkpoint without a log state."
        )
    head = _head(connection, job)
    if after > head.next_seq:
        raise SeqBeyondLog(
            f"after must not exceed the published batches; got {after}, next_seq = {head.next_seq} (job {job_id}). "
            "Start from the state that belongs to this job."
        )
    if after < head.oldest_seq:
        raise BehindRetention(
            f"batches are read from the oldest kept one on; got {after}, oldest is {head.oldest_seq} (job {job_id}). "
            "Start from a newer trainer checkpoint.",
            head.oldest_seq,
        )
    manifest = _with_segments(connection, head, after)
    if job["num_revoked"]:
        manifest = _with_revoked(connection, manifest, after)
    text = canonical_json(manifest.to_json())
    has_news = bool(manifest.segments) or manifest.end is not None
    return Page(text=text, etag=f'"{hashlib.sha256(text).hexdigest()}"', has_news=has_news)


def find_list(connection: Connection, job_id: str, name: str) -> PublishedList:
    """Return where a published list lies, or raise NotFound."""
    query = select(segments).where(segments.c.job_id == job_id, segments.c.list_name == name)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        job_row(connection, job_id)
        raise NotFound(
            f"a list must be in the job's manifest; got {name[:80]!r} (job {job_id}). Take the manifest's link."
        )
    return PublishedList(key=row["list_key"], bytes=row["bytes"], sha256=row["sha256"])


def _head(connection: Connection, job: RowMapping) -> Manifest:
    oldest_seq = connection.execute(_oldest_seq(job["id"])).scalar_one()
    end = _END_OF_STATE.get(job["state"])
    return Manifest(
        job=job["id"],
        history_id=job["history_id"],
        dataset_fingerprint=_value(connection, datasets.c.fingerprint, datasets.c.id == job["dataset_id"]),
        shard_table=f"../../datasets/{job['dataset_id']}/shards",
        policy=policy_of(CurateSpec.model_validate_json(job["spec"])),
        reference_digest=_value(connection, models.c.digest, models.c.id == (job["reference_id"] or "")),
        eligible_digest=job["eligible_digest"],
        numerics_profile=_profile(job),
        oldest_seq=job["next_seq"] if oldest_seq is None else oldest_seq,
        next_seq=job["next_seq"],
        end=end,
        final_seq=None if end is None else job["next_seq"],
        segments=(),
    )


def _oldest_seq(job_id: str) -> Select[Any]:
    return select(func.min(segments.c.first_seq)).where(segments.c.job_id == job_id)


def _with_segments(connection: Connection, head: Manifest, after: int) -> Manifest:
    """Add segments while the page stays small; at least one, however long it is."""
    room = MAX_PAGE_BYTES - len(canonical_json(head.to_json()))
    page: list[Segment] = []
    for segment in _segments_from(connection, head.job, after):
        room -= len(canonical_json(segment.to_json())) + 1
        if page and room < 0:
            next_link = f"manifest?history={head.history_id}&after={page[-1].stop_seq}"
            return replace(head, segments=tuple(page), next_link=next_link)
        page.append(segment)
    return replace(head, segments=tuple(page))


def _with_revoked(connection: Connection, page: Manifest, after: int) -> Manifest:
    """Add what is withdrawn around the page's batches; segments give way where both are too long for one page."""
    kept = list(page.segments)
    stop = kept[-1].stop_seq if kept else after
    ranges = [*_revoked_behind(connection, page, after), *revoked_ranges(connection, page.job, start=after, stop=stop)]
    excess = len(canonical_json(replace(page, revoked=tuple(ranges)).to_json())) - MAX_PAGE_BYTES
    while excess > 0 and len(kept) > 1:
        excess -= len(canonical_json(kept.pop().to_json())) + 1
        stop, beyond = kept[-1].stop_seq, ranges
        ranges = [each for each in beyond if each.first_seq < stop]
        excess -= sum(len(canonical_json(each.to_json())) + 1 for each in beyond[len(ranges) :])
    if len(kept) == len(page.segments):
        return replace(page, revoked=tuple(ranges))
    next_link = f"manifest?history={page.history_id}&after={stop}"
    return replace(page, segments=tuple(kept), revoked=tuple(ranges), next_link=next_link)


def _revoked_behind(connection: Connection, page: Manifest, after: int) -> list[Revoked]:
    start, room = max(page.oldest_seq, after - REVOKED_BEHIND), MAX_BEHIND_BYTES
    kept: list[Revoked] = []
    for each in reversed(revoked_ranges(connection, page.job, start=start, stop=after)):
        room -= len(canonical_json(each.to_json())) + 1
        if room < 0:
            break
        kept.append(each)
    return kept[::-1]


def _segments_from(connection: Connection, job_id: str, after: int) -> Iterator[Segment]:
    of_job = segments.c.job_id == job_id
    holds_after = select(func.max(segments.c.first_seq)).where(of_job, segments.c.first_seq <= after).scalar_subquery()
    query = select(segments).where(of_job, segments.c.first_seq >= holds_after).order_by(segments.c.first_seq)
    for row in connection.execute(query.limit(MAX_PAGE_SEGMENTS)).mappings():
        segment = segment_of(row)
        if segment.stop_seq > after:
            yield segment


def _profile(job: RowMapping) -> NumericsProfile | None:
    if job["numerics_digest"] is None:
        return None
    return NumericsProfile(digest=job["numerics_digest"], parts=json.loads(job["numerics"]))


def _value(connection: Connection, column: Any, condition: Any) -> Any:
    return connection.execute(select(column).where(condition)).scalar_one_or_none()
