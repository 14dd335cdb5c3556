"""Running totals over a job's segments, kept with the job so that its numbers do not take a look at each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field
from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.attempts import SegmentCommit, SourceCounts, sum_counts
from superbatch_server.schemas.base import Body
from superbatch_server.service.catalog.tables import segments


class Totals(Body):
    """Sums over batches [0, next_seq)."""

    next_seq: int = 0
    per_source: dict[str, SourceCounts] = Field(default_factory=dict)
    max_staleness: int | None = None

    def plus(self, commit: SegmentCommit) -> Totals:
        """Return the totals with the next segment."""
        assert commit.first_seq == self.next_seq, "segments are added in order and have no gap"
        stop_seq = commit.first_seq + commit.num_batches
        oldest = None if commit.checkpoint is None else stop_seq - 1 - commit.checkpoint.trained_seq
        known = [staleness for staleness in (self.max_staleness, oldest) if staleness is not None]
        return Totals(
            next_seq=stop_seq,
            per_source=_merged(self.per_source, commit.stats.per_source),
            max_staleness=max(known, default=None),
        )


def totals_of(connection: Connection, job: RowMapping) -> Totals:
    """Return the totals over all segments of a job.

    Cost: one row. Segments that were committed before totals were kept are read once more, in order.
    """
    totals = Totals.model_validate_json(job["totals"]) if job["totals"] else Totals()
    if totals.next_seq >= job["next_seq"]:
        return totals
    query = select(segments.c.commit).where(
        segments.c.job_id == job["id"], segments.c.first_seq >= totals.next_seq, segments.c.first_seq < job["next_seq"]
    )
    for text in connection.execute(query.order_by(segments.c.first_seq)).scalars():
        totals = totals.plus(SegmentCommit.model_validate_json(text))
    return totals


def _merged(left: Mapping[str, SourceCounts], right: Mapping[str, SourceCounts]) -> dict[str, SourceCounts]:
    names: Iterable[str] = sorted({*left, *right})
    return {name: sum_counts([part[name] for part in (left, right) if name in part]) for name in names}
