"""What the page of one job shows, read from the catalog in one transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection

from superbatch_server.schemas.attempts import PoolReport
from superbatch_server.schemas.jobs import Event, Job, JobState
from superbatch_server.schemas.trainers import Checkpoint, CheckpointState, Consumer
from superbatch_server.service.catalog.checkpoints import list_checkpoints
from superbatch_server.service.catalog.consumers import list_consumers
from superbatch_server.service.catalog.datasets import get_dataset
from superbatch_server.service.catalog.jobs import job_of
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.stats import source_stats
from superbatch_server.service.dashboard.attempts import AttemptLine, list_attempts, newest_events
from superbatch_server.service.dashboard.charts import Chart, charts
from superbatch_server.service.dashboard.figures import Facts, Figure, Track, figures, status_note, tracks
from superbatch_server.service.dashboard.history import HistoryCache
from superbatch_server.service.dashboard.selection_words import selection_of
from superbatch_server.service.dashboard.sources import Reason, Source, by_reason, by_source
from superbatch_server.service.dashboard.withdrawn import Withdrawn, read_withdrawn

SHOWN_CHECKPOINTS = 8
SHOWN_EVENTS = 50
SHOWN_ATTEMPTS = 8


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

    job: Job
    dataset: str
    is_over: bool
    status_note: str
    problem: Problem | None
    tracks: list[Track]
    figures: list[Figure]
    charts: list[Chart]
    sources: list[Source]
    quarantine: list[Reason]
    num_quarantined: int
    quarantined_so_far: int
    is_indexed: bool
    withdrawn: Withdrawn | None
    consumers: list[Consumer]
    checkpoints: list[Checkpoint]
    num_checkpoints: int
    attempts: list[AttemptLine]
    events: list[Event]
    record: list[tuple[str, str]]
    spec_text: str


def read_job_page(connection: Connection, job_id: str, histories: HistoryCache) -> JobPage:
    """Return the page of a job. Raises: NotFound."""
    row = job_row(connection, job_id)
    job = job_of(row)
    history = histories.read(connection, row)
    dataset = get_dataset(connection, job.spec.dataset)
    pool = PoolReport.model_validate_json(row["pool"]) if row["pool"] else None
    consumers = list_consumers(connection, job_id)
    checkpoints = list_checkpoints(connection, job_id)
    counters = json.loads(row["counters"])
    active = next((each for each in checkpoints if each.state is CheckpointState.ACTIVE), None)
    facts = Facts(job, dataset, history, pool, consumers, counters, active)
    return JobPage(
        job=job,
        dataset=dataset.name,
        is_over=job.state.is_terminal and not any(consumer.is_live for consumer in consumers),
        status_note=status_note(facts),
        problem=problem(job),
        tracks=tracks(facts),
        figures=figures(facts),
        charts=charts(history, job.spec),
        sources=by_source(source_stats(history.per_source, pool)),
        quarantine=by_reason(pool.quarantined if pool else {}),
        num_quarantined=sum(pool.quarantined.values()) if pool else 0,
        quarantined_so_far=int(counters.get("rows_quarantined", 0)),
        is_indexed=pool is not None,
        withdrawn=read_withdrawn(connection, job_id, next_seq=job.next_seq),
        consumers=consumers,
        checkpoints=checkpoints[:SHOWN_CHECKPOINTS],
        num_checkpoints=len(checkpoints),
        attempts=list_attempts(connection, job_id, limit=SHOWN_ATTEMPTS),
        events=newest_events(connection, job_id, limit=SHOWN_EVENTS),
        record=[
            ("Selection", _selection_text(job)),
            ("Data set", f"{dataset.id}  {dataset.fingerprint or ''}"),
            ("History", job.history_id),
            ("Log digest", row["log_digest"]),
            ("Eligible set", row["eligible_digest"] or "not known yet"),
            ("Excluded rows", row["exclusions_digest"] or "none"),
            ("Numerics profile", _profile_text(row["numerics"])),
        ],
        spec_text=json.dumps(job.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
    )


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
