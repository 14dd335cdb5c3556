"""What a job did to its data: filter ratio and lift per source, quarantine, generations, staleness, curves."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.attempts import PoolReport, ScheduleRow, SegmentCommit, SourceCounts, sum_counts
from superbatch_server.schemas.jobs import CurateSpec, JobState, Phase
from superbatch_server.schemas.stats import JobStats, SegmentPoint, SourceStats
from superbatch_server.service.catalog.checkpoints import newest_generation, refresh_state
from superbatch_server.service.catalog.clock import rfc3339
from superbatch_server.service.catalog.exclusions import get_exclusions
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.tables import datasets, schedule_rows, segments
from superbatch_server.service.catalog.totals import totals_of

DEFAULT_SEGMENTS = 500


def job_stats(connection: Connection, job_id: str, *, num_segments: int = DEFAULT_SEGMENTS) -> JobStats:
    """Return the numbers of a job; the curves cover the newest `num_segments` segments.

    Cost: reads those segments, about a kilobyte each; the totals over all are kept with the job.
    """
    job = job_row(connection, job_id)
    query = select(segments).where(segments.c.job_id == job_id).order_by(segments.c.first_seq.desc())
    rows = list(connection.execute(query.limit(num_segments)).mappings())[::-1]
    commits = [SegmentCommit.model_validate_json(row["commit"]) for row in rows]
    totals = totals_of(connection, job)
    excluded = get_exclusions(connection, job_id)
    pool = PoolReport.model_validate_json(job["pool"]) if job["pool"] else None
    counts = totals.per_source
    total = sum_counts(counts.values())
    dataset_rows = select(datasets.c.rows).where(datasets.c.id == job["dataset_id"])
    return JobStats(
        job=job_id,
        state=JobState(job["state"]),
        phase=None if job["phase"] is None else Phase(job["phase"]),
        next_seq=job["next_seq"],
        num_batches=job["num_batches"],
        consumer_trained_seq=refresh_state(connection, job_id).consumer_trained_seq,
        loaded=total.candidates,
        trained=total.selected,
        trained_flops_fraction=CurateSpec.model_validate_json(job["spec"]).selection.trained_flops_fraction(),
        dropped=total.dropped,
        capped=total.capped,
        filter_ratio=filter_ratio(total),
        rows=connection.execute(dataset_rows).scalar_one(),
        eligible=pool.eligible if pool else None,
        quarantined=dict(pool.quarantined) if pool else {},
        sources=source_stats(counts, pool),
        generation=newest_generation(connection, job_id),
        max_staleness=totals.max_staleness,
        excluded=excluded.num_uids,
        exclusions_digest=excluded.digest,
        is_searching=excluded.is_searching,
        num_revoked=excluded.num_revoked,
        counters=json.loads(job["counters"]),
        segments=[_point(row, commit) for row, commit in zip(rows, commits, strict=True)],
        schedule=_schedule(connection, job_id, commits),
    )


def source_stats(counts: dict[str, SourceCounts], pool: PoolReport | None) -> dict[str, SourceStats]:
    """Return the numbers per source, in the order of names.

    Args:
        counts: candidates and selected rows per source.
        pool: the finished index pass; None before its end, when the share among the candidates stands for the pool's.
    """
    total = sum_counts(counts.values())
    in_pool = {name: part.get("eligible", 0) for name, part in pool.per_source.items()} if pool else {}
    pool_counts = in_pool or {name: count.candidates for name, count in counts.items()}
    num_pool = sum(pool_counts.values())
    found: dict[str, SourceStats] = {}
    for name in sorted({*counts, *pool_counts}):
        count = counts.get(name, SourceCounts(candidates=0, selected=0))
        part = pool.per_source.get(name, {}) if pool else {}
        pool_share = _ratio(pool_counts.get(name, 0), num_pool)
        kept_share = _ratio(count.selected, total.selected)
        found[name] = SourceStats(
            rows=part.get("rows"),
            eligible=part.get("eligible"),
            quarantined=part.get("quarantined"),
            filtered=part.get("filtered"),
            candidates=count.candidates,
            selected=count.selected,
            dropped=count.dropped,
            capped=count.capped,
            excluded=count.excluded,
            filter_ratio=filter_ratio(count),
            pool_share=pool_share,
            kept_share=kept_share,
            lift=kept_share / pool_share if kept_share is not None and pool_share else None,
        )
    return found


def filter_ratio(count: SourceCounts) -> float | None:
    """Return the share thrown away, None where nothing was looked at."""
    kept = _ratio(count.selected, count.candidates)
    return None if kept is None else 1 - kept


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _point(row: RowMapping, commit: SegmentCommit) -> SegmentPoint:
    used = commit.checkpoint
    seqs = range(commit.first_seq, commit.first_seq + commit.num_batches)
    same = ("first_seq", "num_batches", "generation", "rule", "checkpoint", "f", "B")
    measured = ("learnability_batch", "learnability_super_batch", "score_s", "select_s", "commit_s")
    return SegmentPoint(
        **{name: getattr(commit, name) for name in same},
        **{name: getattr(commit.stats, name) for name in measured},
        staleness=[seq - used.trained_seq for seq in seqs] if used else None,
        committed_at=rfc3339(row["committed_ms"]),
    )


def _schedule(connection: Connection, job_id: str, commits: Sequence[SegmentCommit]) -> list[ScheduleRow]:
    """Return the row that decided each batch: of several row attempts the one that was published."""
    if not commits:
        return []
    used = {seq for commit in commits for seq in enumerate(commit.row_attempts, start=commit.first_seq)}
    table = schedule_rows.c
    stop_seq = commits[-1].first_seq + commits[-1].num_batches
    query = (
        select(table.seq, table.row_attempt, table.body)
        .where(table.job_id == job_id, table.seq >= commits[0].first_seq, table.seq < stop_seq)
        .order_by(table.seq)
    )
    rows = connection.execute(query).mappings()
    return [ScheduleRow.model_validate_json(row["body"]) for row in rows if (row["seq"], row["row_attempt"]) in used]
