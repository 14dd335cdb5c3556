"""The head that all pages of one job share: name, state, and which of the pages is open."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from superbatch_server.schemas.jobs import Job
from superbatch_server.service.catalog.jobs import get_job
from superbatch_server.service.catalog.tables import datasets

TABS = (
    ("overview", "Overview", ""),
    ("learnability", "Learnability", "/learnability"),
    ("examples", "Examples", "/examples"),
    ("compare", "Compare", "/compare"),
    ("quarantine", "Quarantine", "/quarantine"),
    ("logs", "Logs", "/logs"),
)
"""Every page of a job: its name in code, its name for people, and its address below /jobs/{id}."""


@dataclass(frozen=True, slots=True)
class JobHead:
    """What `job_page.html` needs as `head`; `tab` is the page that is open."""

    job: Job
    dataset: str
    tab: str

    @property
    def title(self) -> str:
        """Name of the open page."""
        return next(title for tab, title, _ in TABS if tab == self.tab)

    @property
    def links(self) -> list[tuple[str, str, bool]]:
        """Return (title, address, is open) of each page of the job."""
        return [(title, f"/jobs/{self.job.id}{below}", tab == self.tab) for tab, title, below in TABS]


def read_job_head(connection: Connection, job_id: str, tab: str) -> JobHead:
    """Return the head of a job's page. Raises: NotFound."""
    job = get_job(connection, job_id)
    name = connection.execute(select(datasets.c.name).where(datasets.c.id == job.spec.dataset)).scalar_one()
    return JobHead(job, name, tab)
