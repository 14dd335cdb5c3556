"""How fast jobs go now, from their newest segments: rows per second, and the time that is left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.jobs import JobState, Phase
from superbatch_server.service.catalog.tables import attempts, segments

NEWEST = 20
"""Segments that say how fast a job is now."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows looked at per second, and seconds to the end; None where nothing says so yet.

    Rows are candidates while batches are composed, and rows of shards while these are indexed.
    """

    rows_per_s: float | None = None
    left_s: float | None = None
    seconds_per_batch: float | None = None


def read_speeds(connection: Connection, rows: Sequence[RowMapping], *, at_ms: int) -> dict[str, Speed]:
    """Return the speed of each running job among `rows`; the others stand still.

    Cost: one query of NEWEST segments for each of them, and one for all attempts.
    """
    running = [row for row in rows if row["state"] == JobState.RUNNING]
    began = _began_ms(connection, running)
    return {
        row["id"]: _composing(connection, row, since_ms=began.get(row["id"], 0), at_ms=at_ms)
        or _indexing(row, since_ms=began.get(row["id"]), at_ms=at_ms)
        for row in running
    }


def _composing(connection: Connection, row: RowMapping, *, since_ms: int, at_ms: int) -> Speed | None:
    """Return the speed of the segments that this attempt published last; a wait counts, so the time left is honest."""
    query = (
        select(segments.c.commit, segments.c.committed_ms, segments.c.num_batches)
        .where(segments.c.job_id == row["id"], segments.c.first_seq < row["next_seq"])
        .order_by(segments.c.first_seq.desc())
        .limit(NEWEST)
    )
    newest = [each for each in connection.execute(query).mappings() if each["committed_ms"] >= since_ms]
    if len(newest) < 2:
        return None
    seconds = max(1, at_ms - newest[-1]["committed_ms"]) / 1000
    batches = sum(each["num_batches"] for each in newest[:-1])
    candidates = sum(sum(json.loads(each["commit"])["B"]) for each in newest[:-1])
    left_s = (row["num_batches"] - row["next_seq"]) * seconds / batches
    return Speed(candidates / seconds, left_s, seconds / batches)


def _indexing(row: RowMapping, *, since_ms: int | None, at_ms: int) -> Speed:
    counters: Mapping[str, float] = json.loads(row["counters"])
    rows_read = counters.get("rows_read", 0)
    if since_ms is None or not rows_read or row["phase"] not in (Phase.INDEXING, Phase.EMBEDDING):
        return Speed()
    return Speed(rows_per_s=rows_read / (max(1, at_ms - since_ms) / 1000))


def _began_ms(connection: Connection, rows: Sequence[RowMapping]) -> dict[str, int]:
    tokens = {row["id"]: row["token"] for row in rows}
    query = select(attempts.c.job_id, attempts.c.token, attempts.c.started_ms).where(attempts.c.job_id.in_(tokens))
    return {row.job_id: row.started_ms for row in connection.execute(query) if row.token == tokens[row.job_id]}
