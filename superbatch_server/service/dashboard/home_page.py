"""What the first page shows: jobs, data sets, models; newest first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from superbatch_server.schemas.datasets import Dataset
from superbatch_server.schemas.jobs import Job
from superbatch_server.schemas.models import Model
from superbatch_server.service.catalog.datasets import list_datasets
from superbatch_server.service.catalog.jobs import list_jobs
from superbatch_server.service.catalog.models import list_models
from superbatch_server.service.catalog.pages import PageQuery
from superbatch_server.service.catalog.tables import datasets, jobs, models
from superbatch_server.service.dashboard.selection_words import Selection, selection_of

SHOWN = 50


@dataclass(frozen=True, slots=True)
class JobLine:
    """One row of the table of jobs."""

    job: Job
    dataset: str
    selection: Selection


@dataclass(frozen=True, slots=True)
class HomePage:
    """The first page, ready to be drawn. `num_*` count everything; the lists hold the newest."""

    jobs: list[JobLine]
    datasets: list[Dataset]
    models: list[Model]
    num_jobs: int
    num_datasets: int
    num_models: int


def read_home_page(connection: Connection) -> HomePage:
    """Return the first page."""
    newest = PageQuery(page_size=SHOWN)
    names = {row.id: row.name for row in connection.execute(select(datasets.c.id, datasets.c.name))}
    lines = [JobLine(job, names[job.spec.dataset], selection_of(job.spec)) for job in list_jobs(connection, newest)[0]]
    counts = [
        connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (jobs, datasets, models)
    ]
    return HomePage(lines, list_datasets(connection, newest)[0], list_models(connection, newest)[0], *counts)
