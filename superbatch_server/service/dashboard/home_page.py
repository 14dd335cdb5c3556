"""What the first page shows: jobs by pages, and the newest data sets and models."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from superbatch_server.schemas.attempts import sum_counts
from superbatch_server.schemas.datasets import Dataset
from superbatch_server.schemas.errors import Validation
from superbatch_server.schemas.jobs import Job, JobState
from superbatch_server.schemas.models import Model
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.datasets import list_datasets
from superbatch_server.service.catalog.jobs import job_of
from superbatch_server.service.catalog.models import list_models
from superbatch_server.service.catalog.pages import PageQuery, read_page
from superbatch_server.service.catalog.stats import filter_ratio
from superbatch_server.service.catalog.tables import checkpoints, datasets, jobs, models
from superbatch_server.service.catalog.totals import totals_of
from superbatch_server.service.dashboard.selection_words import Selection, selection_of
from superbatch_server.service.dashboard.speed import Speed, read_speeds
from superbatch_server.service.watching.supervision import Supervision, read_supervision

PAGE_JOBS = 50
PAGE_OTHERS = 20


@dataclass(frozen=True, slots=True)
class JobLine:
    """One row of the table of jobs."""

    job: Job
    dataset: str
    selection: Selection
    filter_ratio: float | None
    generation: int | None
    speed: Speed
    age_s: float


@dataclass(frozen=True, slots=True)
class StateFilter:
    """One choice of the filter: None is every state."""

    state: JobState | None
    num_jobs: int
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class HomePage:
    """The first page, ready to be drawn. `num_*` count everything; the lists hold one page."""

    jobs: list[JobLine]
    filters: list[StateFilter]
    state: JobState | None
    token: str | None
    next_token: str | None
    supervision: Supervision
    datasets: list[Dataset]
    models: list[Model]
    num_datasets: int
    num_models: int

    @property
    def num_jobs(self) -> int:
        """Jobs of every state."""
        return self.filters[0].num_jobs

    @property
    def query(self) -> str:
        """The address's query of this page, for the part of it that is fetched again."""
        asked = {"state": self.state, "page_token": self.token}
        return "&".join(f"{name}={value}" for name, value in asked.items() if value)


def read_home_page(connection: Connection, *, state: str | None = None, page_token: str | None = None) -> HomePage:
    """Return the first page, or a later one of the jobs. Raises: Validation.

    Cost: bounded by the page, except for two counts over small indexes.
    """
    chosen = _state(state)
    where = None if chosen is None else jobs.c.state == chosen
    rows, next_token = read_page(connection, jobs, PageQuery(PAGE_JOBS, page_token), where=where)
    at_ms = now_ms(connection)
    names = select(datasets.c.id, datasets.c.name).where(datasets.c.id.in_({row["dataset_id"] for row in rows}))
    dataset_names = {row.id: row.name for row in connection.execute(names)}
    generations = _generations(connection, [row["id"] for row in rows])
    speeds = read_speeds(connection, rows, at_ms=at_ms)
    lines = []
    for row in rows:
        job = job_of(row)
        total = sum_counts(totals_of(connection, row).per_source.values())
        lines.append(
            JobLine(
                job=job,
                dataset=dataset_names[row["dataset_id"]],
                selection=selection_of(job.spec),
                filter_ratio=filter_ratio(total),
                generation=generations.get(job.id, 0) if job.spec.pushes else None,
                speed=speeds.get(job.id, Speed()),
                age_s=max(0, at_ms - row["created_ms"]) / 1000,
            )
        )
    others = PageQuery(PAGE_OTHERS)
    return HomePage(
        jobs=lines,
        filters=_filters(connection, chosen),
        state=chosen,
        token=page_token,
        next_token=next_token,
        supervision=read_supervision(connection),
        datasets=list_datasets(connection, others)[0],
        models=list_models(connection, others)[0],
        num_datasets=connection.execute(select(func.count()).select_from(datasets)).scalar_one(),
        num_models=connection.execute(select(func.count()).select_from(models)).scalar_one(),
    )


def _state(text: str | None) -> JobState | None:
    if not text:
        return None
    try:
        return JobState(text.upper())
    except ValueError as error:
        raise Validation(
            f"state must be one of {', '.join(JobState)}; got {text[:60]!r} (query state). Leave it out for all jobs."
        ) from error


def _filters(connection: Connection, chosen: JobState | None) -> list[StateFilter]:
    counts = {
        row.state: row.num
        for row in connection.execute(select(jobs.c.state, func.count().label("num")).group_by(jobs.c.state))
    }
    every = StateFilter(None, sum(counts.values()), chosen is None)
    return [every, *(StateFilter(each, counts.get(each, 0), each is chosen) for each in JobState)]


def _generations(connection: Connection, job_ids: list[str]) -> dict[str, int]:
    query = (
        select(checkpoints.c.job_id, func.max(checkpoints.c.generation).label("generation"))
        .where(checkpoints.c.job_id.in_(job_ids))
        .group_by(checkpoints.c.job_id)
    )
    return {row.job_id: row.generation or 0 for row in connection.execute(query)}
