"""What the page of one job shows, read from the catalog in one transaction."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping

from superbatch_server.schemas.datasets import Dataset
from superbatch_server.schemas.jobs import Event, Job, JobState
from superbatch_server.schemas.stats import JobStats
from superbatch_server.schemas.trainers import Checkpoint, CheckpointState, Consumer
from superbatch_server.service.catalog.checkpoints import list_checkpoints
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.consumers import list_consumers
from superbatch_server.service.catalog.datasets import get_dataset
from superbatch_server.service.catalog.jobs import job_of
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.stats import job_stats
from superbatch_server.service.dashboard.attempts import AttemptLine, list_attempts, newest_events
from superbatch_server.service.dashboard.charts import charts
from superbatch_server.service.dashboard.figures import Facts, Figure, Track, figures, status_note, tracks
from superbatch_server.service.dashboard.history import HistoryCache
from superbatch_server.service.dashboard.job_head import JobHead
from superbatch_server.service.dashboard.plot import Chart
from superbatch_server.service.dashboard.selection_words import selection_of
from superbatch_server.service.dashboard.shard_progress import ShardProgress, read_shard_progress
from superbatch_server.service.dashboard.sources import Reason, Source, by_reason, by_source
from superbatch_server.service.dashboard.speed import Speed, read_speeds
from superbatch_server.service.dashboard.stages import Stages, read_stages
from superbatch_server.service.dashboard.timeline import Timeline, timeline
from superbatch_server.service.dashboard.withdrawn import Withdrawn, read_withdrawn
from superbatch_server.service.watching.supervision import read_supervision

SHOWN_CHECKPOINTS = 8
SHOWN_EVENTS = 50
DRAWN_EVENTS = 500
SHOWN_ATTEMPTS = 8
SHOWN_SOURCES = 100
SHOWN_REASONS = 20
SHOWN_CONSUMERS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job failed, and what to do."""

    code: str
    message: str
    remedy: str
    command: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """One job, ready to be drawn."""

    head: JobHead
    job: Job
    stats: JobStats
    is_over: bool
    status_note: str
    problem: Problem | None
    tracks: list[Track]
    figures: list[Figure]
    shards: ShardProgress | None
    charts: list[Chart]
    charts_note: str
    stages: Stages | None
    sources: list[Source]
    num_sources: int
    quarantine: list[Reason]
    withdrawn: Withdrawn | None
    consumers: list[Consumer]
    checkpoints: list[Checkpoint]
    checkpoint_states: list[tuple[str, int]]
    attempts: list[AttemptLine]
    timeline: Timeline | None
    events: list[Event]
    record: list[tuple[str, str]]
    numbers: list[tuple[str, int | float | str | bool | None]]
    spec_text: str

    @property
    def num_quarantined(self) -> int:
        """Quarantined rows, known when the index pass is complete."""
        return sum(self.stats.quarantined.values())

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints that were pushed."""
        return sum(count for _, count in self.checkpoint_states)


def read_job_page(connection: Connection, job_id: str, histories: HistoryCache) -> JobPage:
    """Return the page of a job. Raises: NotFound."""
    row = job_row(connection, job_id)
    job = job_of(row)
    history = histories.read(connection, row, job.spec)
    is_read = history.next_seq >= job.next_seq
    stats = job_stats(connection, job_id, num_segments=1)
    dataset = get_dataset(connection, job.spec.dataset)
    consumers = list_consumers(connection, job_id)
    checkpoints = list_checkpoints(connection, job_id)
    facts = Facts(
        job=job,
        stats=stats,
        history=history,
        speed=read_speeds(connection, [row], at_ms=now_ms(connection)).get(job.id, Speed()),
        consumers=consumers,
        active=next((each for each in checkpoints if each.state is CheckpointState.ACTIVE), None),
        newest_score_age_s=_newest_score_age_s(stats, checkpoints),
        supervisor_warning=read_supervision(connection).warning if job.state is JobState.QUEUED else "",
    )
    newest = newest_events(connection, job_id, limit=DRAWN_EVENTS)
    sources = by_source(stats.sources)
    return JobPage(
        head=JobHead(job, dataset.name, "overview"),
        job=job,
        stats=stats,
        is_over=job.state.is_terminal and is_read and not any(consumer.is_live for consumer in consumers),
        status_note=status_note(facts),
        problem=problem(job),
        tracks=tracks(facts),
        figures=figures(facts),
        shards=None if row["pool"] or job.state.is_terminal else read_shard_progress(connection, row),
        charts=charts(history, job.spec, stats),
        charts_note=""
        if is_read
        else f"Drawn: the first {history.next_seq:,} of {job.next_seq:,} batches; the rest is being read.",
        stages=read_stages(history, stats),
        sources=sources[:SHOWN_SOURCES],
        num_sources=len(sources),
        quarantine=by_reason(stats.quarantined)[:SHOWN_REASONS],
        withdrawn=read_withdrawn(connection, job_id, next_seq=job.next_seq),
        consumers=consumers[:SHOWN_CONSUMERS],
        checkpoints=checkpoints[:SHOWN_CHECKPOINTS],
        checkpoint_states=Counter(str(each.state) for each in checkpoints).most_common(),
        attempts=list_attempts(connection, job_id, limit=SHOWN_ATTEMPTS),
        timeline=timeline(newest),
        events=newest[:SHOWN_EVENTS],
        record=_record(job, dataset, row),
        numbers=_numbers(stats),
        spec_text=json.dumps(job.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
    )


def _newest_score_age_s(stats: JobStats, checkpoints: list[Checkpoint]) -> float | None:
    used = stats.segments[-1].checkpoint if stats.segments else None
    pushed = next((each for each in checkpoints if used is not None and each.id == used.id), None)
    if pushed is None:
        return None
    committed_at = datetime.fromisoformat(stats.segments[-1].committed_at)
    return max(0.0, (committed_at - datetime.fromisoformat(pushed.created_at)).total_seconds())


def _record(job: Job, dataset: Dataset, row: RowMapping) -> list[tuple[str, str]]:
    return [
        ("Selection", _selection_text(job)),
        ("Data set", f"{dataset.id}  {dataset.fingerprint or ''}"),
        ("History", job.history_id),
        ("Log digest", row["log_digest"]),
        ("Eligible set", row["eligible_digest"] or "not known yet"),
        ("Excluded rows", row["exclusions_digest"] or "none"),
        ("Numerics profile", _profile_text(row["numerics"])),
    ]


def _numbers(stats: JobStats) -> list[tuple[str, int | float | str | bool | None]]:
    """Return every single number of /stats under its own name; curves and the schedule are not single numbers."""
    plain = stats.model_dump(mode="json", exclude={"job", "sources", "segments", "schedule", "counters", "quarantined"})
    counters = {f"counters.{name}": value for name, value in stats.counters.items()}
    return [*plain.items(), *sorted(counters.items())]


def problem(job: Job) -> Problem | None:
    """Return what a FAILED job needs; None for every other one."""
    if job.state is not JobState.FAILED:
        return None
    remedy = f"The {job.next_seq:,} published batches stay. When the cause is mended, the job goes on after them:"
    return Problem(
        code=job.error_code or "unknown",
        message=job.error or "The job failed and gave no reason.",
        remedy=remedy if job.next_seq else "Nothing is published yet. When the cause is mended:",
        command=f"superbatch retry {job.id}",
    )


def _selection_text(job: Job) -> str:
    selection = selection_of(job.spec)
    said = [selection.how, f"{selection.sizes}, N {job.spec.selection.N:,}", selection.limits]
    return "; ".join(part for part in said if part)


def _profile_text(numerics: str | None) -> str:
    if numerics is None:
        return "recorded by the first attempt"
    return ", ".join(f"{name} {value}" for name, value in json.loads(numerics).items())
