"""Jobs as users see them; what changes a job stands in `queue.py` and `lease.py`."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, delete, select

from superbatch_server.schemas.errors import InUse, WrongState
from superbatch_server.schemas.jobs import CurateSpec, Job, JobState, Phase
from superbatch_server.service.catalog.clock import rfc3339
from superbatch_server.service.catalog.pages import PageQuery, read_page
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.tables import jobs


def get_job(connection: Connection, job_id: str) -> Job:
    """Return one job, or raise NotFound."""
    return job_of(job_row(connection, job_id))


def hold_job(connection: Connection, job_id: str) -> Job:
    """Return one job, which cannot be deleted before this transaction ends; or raise NotFound."""
    held = select(jobs.c.id).where(jobs.c.id == job_id).with_for_update(read=True, key_share=True)
    connection.execute(held)
    return get_job(connection, job_id)


def list_jobs(
    connection: Connection, query: PageQuery, *, state: JobState | None = None
) -> tuple[list[Job], str | None]:
    """Return a page of jobs, newest first; of those in one state where it is given."""
    rows, token = read_page(connection, jobs, query, where=None if state is None else jobs.c.state == str(state))
    return [job_of(row) for row in rows], token


def delete_job(connection: Connection, job_id: str) -> None:
    """Forget a job that has ended; its files become garbage. A schedule that another job replays is kept."""
    row = job_row(connection, job_id, lock=True)
    if not JobState(row["state"]).is_terminal:
        raise WrongState(
            f"a job can be deleted when it has ended; it is {row['state']} (job {job_id}). "
            f"Cancel it with POST /v1/jobs/{job_id}:cancel, then delete it."
        )
    replays = jobs.c.spec.contains(f'"replay":"{job_id}"', autoescape=True)
    user = connection.execute(select(jobs.c.id).where(replays).limit(1)).scalar_one_or_none()
    if user is not None:
        raise InUse(
            f"a job can be deleted when no other replays its schedule; got {user} (job {job_id}). "
            "Delete that one first."
        )
    connection.execute(delete(jobs).where(jobs.c.id == job_id))


def job_of(row: RowMapping) -> Job:
    """Return the resource that a row of the table stands for."""
    return Job(
        id=row["id"],
        name=row["name"],
        state=JobState(row["state"]),
        phase=None if row["phase"] is None else Phase(row["phase"]),
        spec=CurateSpec.model_validate_json(row["spec"]),
        history_id=row["history_id"],
        next_seq=row["next_seq"],
        num_batches=row["num_batches"],
        attempt=row["token"],
        error_code=row["error_code"],
        error=row["error"],
        created_at=rfc3339(row["created_ms"]),
        updated_at=rfc3339(row["updated_ms"]),
    )
