"""Quarantined rows with their reasons, read from the index files of a job's shards; a page reads a bounded part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, RowMapping

from superbatch.formats.embedding_shard import OK
from superbatch_server.schemas.errors import ApiError, Validation
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.pages import page_token, parse_page_token, refused
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.dashboard.job_head import JobHead, read_job_head
from superbatch_server.service.dashboard.shard_progress import MAX_LOOKED_UP, find_entries, list_shards, pass_keys
from superbatch_server.service.dashboard.sources import Reason, by_reason
from superbatch_server.storage.store import ArtifactStore

PAGE_ROWS = 50
MAX_FILES = 40
"""Index files that one page opens at most; files without a quarantined row are not opened at all."""
MAX_FILE_BYTES = 256 << 20
COLUMNS = ("key", "caption", "width", "height", "verdict")


@dataclass(frozen=True, slots=True)
class BadRow:
    """One quarantined row; `dataset_index` is None while the data set does not know its rows."""

    shard: str
    shard_id: int
    sample_index: int
    dataset_index: int | None
    key: str
    reason: str
    caption: str | None
    size: str


@dataclass(frozen=True, slots=True)
class QuarantinePage:
    """The page: counts by reason, and one page of rows."""

    head: JobHead
    reasons: list[Reason]
    num_rows: int
    so_far: int
    is_indexed: bool
    reason: str | None
    rows: list[BadRow]
    token: str | None
    next_token: str | None
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Shard:
    row: RowMapping
    index: RowMapping
    embedding: RowMapping | None

    @property
    def counts(self) -> Mapping[str, int]:
        """Quarantined rows by reason; the embedding's include the index's."""
        entry = self.index if self.embedding is None else self.embedding
        return {**json.loads(self.index["quarantined"]), **json.loads(entry["quarantined"])}


def read_quarantine_page(
    engine: Engine, store: ArtifactStore, job_id: str, *, reason: str | None, token: str | None
) -> QuarantinePage:
    """Return one page of quarantined rows, all or those of one reason, in the order of the data set.

    Raises: NotFound, Validation. Cost: at most MAX_FILES index files.
    """
    with read(engine) as connection:
        head = read_job_head(connection, job_id, "quarantine")
        job = job_row(connection, job_id)
        listed = list_shards(connection, job["dataset_id"])
        shards = listed[:MAX_LOOKED_UP]
        keys = pass_keys(connection, job, shards)
        entries = find_entries(connection, sorted({key for key in [*keys.index, *keys.embedding] if key}))
    found = [
        _Shard(row, entries[index], entries.get(embedding or ""))
        for row, index, embedding in zip(shards, keys.index, keys.embedding, strict=True)
        if index in entries
    ]
    notes = [] if len(listed) == len(shards) else [f"Rows of the first {MAX_LOOKED_UP:,} shards are looked through."]
    listing = f"quarantine of {job_id}, {reason}"
    rows, following = _page(found, store, reason=reason, start=_start(listing, token), notes=notes)
    pool = json.loads(job["pool"]) if job["pool"] else None
    reasons = by_reason(pool["quarantined"] if pool else _sum(shard.counts for shard in found))
    return QuarantinePage(
        head=head,
        reasons=reasons,
        num_rows=sum(each.rows for each in reasons),
        so_far=int(json.loads(job["counters"]).get("rows_quarantined", 0)),
        is_indexed=pool is not None,
        reason=reason,
        rows=rows,
        token=token,
        next_token=page_token(listing, list(following)) if following else None,
        notes=notes,
    )


def _start(listing: str, token: str | None) -> tuple[int, int]:
    if token is None:
        return 0, 0
    match parse_page_token(listing, token):
        case [int(shard_id), int(sample_index)]:
            return shard_id, max(0, sample_index)
    raise refused(token)


def _page(
    shards: Sequence[_Shard], store: ArtifactStore, *, reason: str | None, start: tuple[int, int], notes: list[str]
) -> tuple[list[BadRow], tuple[int, int] | None]:
    """Return rows from `start` on, a shard and a row in it, and where the next page begins."""
    rows: list[BadRow] = []
    opened = 0
    for shard in shards:
        shard_id = shard.row["shard_id"]
        if shard_id < start[0] or not _holds(shard, reason):
            continue
        if opened == MAX_FILES:
            return rows, (shard_id, 0)
        opened += 1
        first = start[1] if shard_id == start[0] else 0
        try:
            for row in _bad_rows(shard, store, reason=reason, first=first):
                if len(rows) == PAGE_ROWS:
                    return rows, (shard_id, row.sample_index)
                rows.append(row)
        except (ApiError, pa.ArrowException, OSError) as error:
            notes.append(f"The index of shard {shard.row['key']} could not be read: {error}")
    return rows, None


def _bad_rows(shard: _Shard, store: ArtifactStore, *, reason: str | None, first: int) -> Iterator[BadRow]:
    if shard.index["bytes"] > MAX_FILE_BYTES:
        raise Validation(f"an index must have at most {MAX_FILE_BYTES} bytes to be shown; got {shard.index['bytes']}.")
    table = pq.read_table(BytesIO(store.get(shard.index["object_key"])), columns=list(COLUMNS))
    verdicts = _verdicts(shard, table, store)
    for i in range(first, table.num_rows):
        if verdicts[i] == OK or reason not in (None, verdicts[i]):
            continue
        row = {name: table.column(name)[i].as_py() for name in COLUMNS}
        start = shard.row["start_index"]
        yield BadRow(
            shard=shard.row["key"],
            shard_id=shard.row["shard_id"],
            sample_index=i,
            dataset_index=None if start is None else start + i,
            key=row["key"],
            reason=verdicts[i],
            caption=row["caption"],
            size=f"{row['width']:,} x {row['height']:,}" if row["width"] else "–",
        )


def _verdicts(shard: _Shard, table: pa.Table, store: ArtifactStore) -> list[str]:
    """Return why each row cannot be used: the index says it first, then what the reference could not embed."""
    own: list[str] = table.column("verdict").to_pylist()
    entry = shard.embedding
    if entry is None or json.loads(entry["quarantined"]) == json.loads(shard.index["quarantined"]):
        return own
    theirs = pq.read_table(BytesIO(store.get(entry["object_key"])), columns=["verdict"]).column("verdict").to_pylist()
    return [mine if mine != OK else other for mine, other in zip(own, theirs, strict=True)]


def _holds(shard: _Shard, reason: str | None) -> bool:
    return any(shard.counts.values()) if reason is None else bool(shard.counts.get(reason))


def _sum(counts: Iterator[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for reason, rows in each.items():
            total[reason] = total.get(reason, 0) + rows
    return total
