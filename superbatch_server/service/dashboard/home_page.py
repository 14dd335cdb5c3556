"""What the first page shows: jobs, data sets, models; newest first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from superbatch_server.schemas.datasets import Dataset
from superbatch_server.schemas.jobs import Criterion, CurateSpec, Job, Method
from superbatch_server.schemas.models import Model
from superbatch_server.service.catalog.datasets import list_datasets
from superbatch_server.service.catalog.jobs import list_jobs
from superbatch_server.service.catalog.models import list_models
from superbatch_server.service.catalog.pages import PageQuery
from superbatch_server.service.catalog.tables import datasets, jobs, models

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection in a few words: joint learnability; f 0.8, b 128."""

    how: str
    sizes: str


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


def selection_of(spec: CurateSpec) -> Selection:
    """Return what a job selects by; "scheduled" stands for whatever changes over seq."""
    selection = spec.selection
    words = [selection.method.value if isinstance(selection.method, Method) else "scheduled method"]
    if spec.methods() != {Method.UNIFORM}:
        criterion = selection.criterion
        words.append(criterion.value.replace("_", " ") if isinstance(criterion, Criterion) else "scheduled criterion")
    f = f"{selection.f:g}" if isinstance(selection.f, float) else "scheduled"
    return Selection(how=" ".join(words), sizes=f"f {f}, b {selection.b:,}")
