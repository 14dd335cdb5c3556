"""Who may run a job: claims by supervisors, and what becomes of a job whose driver is gone.

A job is run by one attempt at a time. `jobs.token` counts attempts and is the fence: whoever holds an older one is
answered `lease_lost`. A job may be claimed that is QUEUED and has what it waits for, or whose lease ran out.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Select, insert, select, update

from superbatch_server.schemas.errors import NotFound
from superbatch_server.schemas.jobs import JobState, Phase
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import read, transact, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import end_job, job_row, update_job
from superbatch_server.service.catalog.tables import attempts, jobs
from superbatch_server.service.catalog.waiting import is_claimable


@dataclass(frozen=True)
class Claim:
    """An attempt that may begin: the only copy of its secret, and of what came before."""

    job_id: str
    token: int
    secret: str = field(repr=False)


def secret_digest(secret: str) -> str:
    """Return what the catalog keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def claim(engine: Engine, supervisor_id: str, host: str, lease_ms: int, *, max_crashes: int = 5) -> Claim | None:
    """Take the oldest job that may run: a new token, a new secret, an attempt. None when there is none.

    A job whose lease ran out counts as crashed; one that crashed too often becomes FAILED instead.
    """
    with read(engine) as connection:
        if not _claimable_ids(connection):
            return None

    def take(connection: Connection) -> Claim | None:
        for job_id in _claimable_ids(connection):
            row = _lock_claimable(connection, job_id)
            if row is None:
                continue
            if row["state"] == JobState.RUNNING:
                end_attempt(connection, row, "lease_expired")
                if crash(connection, row, "stopped renewing its lease", max_crashes=max_crashes) == JobState.FAILED:
                    continue
            return _begin_attempt(connection, row, supervisor_id, host, lease_ms)
        return None

    return transact(engine, take)


def _claimable_ids(connection: Connection) -> list[str]:
    query = select(jobs.c.id).where(is_claimable(now_ms(connection))).order_by(jobs.c.created_ms, jobs.c.id)
    return list(connection.execute(query).scalars())


def _lock_claimable(connection: Connection, job_id: str) -> RowMapping | None:
    """Lock a job and look again: where there are row locks, another claim may have come first."""
    query = select(jobs).where(jobs.c.id == job_id, is_claimable(now_ms(connection)))
    return connection.execute(query.with_for_update(of=jobs, skip_locked=True)).mappings().one_or_none()


def _begin_attempt(connection: Connection, row: RowMapping, supervisor_id: str, host: str, lease_ms: int) -> Claim:
    claimed = Claim(row["id"], row["token"] + 1, secrets.token_urlsafe(32))
    at_ms = now_ms(connection)
    update_job(
        connection,
        claimed.job_id,
        state=JobState.RUNNING,
        phase=Phase.STARTING,
        token=claimed.token,
        lease_until_ms=at_ms + lease_ms,
        secret_sha256=secret_digest(claimed.secret),
        supervisor_id=supervisor_id,
        waits_for=None,
    )
    connection.execute(
        insert(attempts).values(
            job_id=claimed.job_id, token=claimed.token, supervisor_id=supervisor_id, host=host, started_ms=at_ms
        )
    )
    if row["waits_for"]:
        is_room = row["waits_for"] == "room"
        what = "looks whether there is room" if is_room else f"the {row['waits_for']} moved on"
        add_event(connection, claimed.job_id, "woken", what)
    kind, what = ("taken_over", "takes over") if row["state"] == JobState.RUNNING else ("attempt_began", "begins")
    add_event(
        connection,
        claimed.job_id,
        kind,
        f"attempt {claimed.token} {what} at seq {row['next_seq']}",
        {"attempt": claimed.token, "supervisor": supervisor_id, "host": host},
    )
    return claimed


def attempt_started(connection: Connection, claimed: Claim, *, pid: int | None, log_path: str) -> None:
    """Note the process of an attempt, None where it runs elsewhere, and where its output goes."""
    connection.execute(_attempt(claimed.job_id, claimed.token).values(pid=pid, log_path=log_path))


def attempt_ended(
    connection: Connection, job_id: str, token: int, outcome: str, *, max_crashes: int = 5, crashed: bool = True
) -> None:
    """Release the job of a driver that is gone, at once; no effect when the attempt had ended its work itself.

    `outcome` says in a few words how the process ended; `crashed=False` is for one that was told to stop.
    """
    try:
        row = job_row(connection, job_id, lock=True)
    except NotFound:
        return  # the job ended and was deleted while its driver was still leaving
    if row["token"] == token and row["state"] == JobState.RUNNING and crashed:
        crash(connection, row, outcome, max_crashes=max_crashes)
    elif row["token"] == token and row["state"] == JobState.RUNNING:
        update_job(connection, job_id, state=JobState.QUEUED, phase=None, lease_until_ms=now_ms(connection))
        add_event(connection, job_id, "released", f"attempt {token} was stopped", {"attempt": token})
    elif row["token"] == token and row["state"] == JobState.CANCELLING:
        end_job(connection, job_id, JobState.CANCELLED)
    end_attempt(connection, row, outcome, token=token)


def crash(connection: Connection, row: RowMapping, outcome: str, *, max_crashes: int) -> JobState:
    """Count a crash without progress; return the job's new state: QUEUED, or FAILED after too many."""
    crashes, job_id, token = row["crashes"] + 1, row["id"], row["token"]
    if crashes <= max_crashes:
        update_job(
            connection, job_id, state=JobState.QUEUED, phase=None, crashes=crashes, lease_until_ms=now_ms(connection)
        )
        add_event(
            connection, job_id, "attempt_crashed", f"attempt {token}: {outcome}", {"attempt": token, "crashes": crashes}
        )
        return JobState.QUEUED
    log_path = connection.execute(
        select(attempts.c.log_path).where(attempts.c.job_id == job_id, attempts.c.token == token)
    ).scalar_one_or_none()
    message = (
        f"a driver may crash at most {max_crashes} times in a row without progress; got {crashes}, the last one: "
        f"{outcome} (job {job_id}, attempt {token}). Read {log_path or 'the log of the service'}, then retry the job."
    )
    update_job(connection, job_id, crashes=crashes)
    end_job(connection, job_id, JobState.FAILED, code="driver_crashed", message=message)
    return JobState.FAILED


def end_attempt(connection: Connection, row: RowMapping, outcome: str, *, token: int | None = None) -> None:
    """Note how an attempt ended, unless that is known already."""
    token = row["token"] if token is None else token
    ended = _attempt(row["id"], token).where(attempts.c.ended_ms.is_(None))
    connection.execute(ended.values(ended_ms=now_ms(connection), outcome=outcome[:32]))


def cancel_abandoned(engine: Engine) -> None:
    """Make CANCELLED every CANCELLING job whose lease ran out: nobody is left to stop."""
    with read(engine) as connection:
        if not connection.execute(_abandoned(connection)).first():
            return
    with write(engine) as connection:
        abandoned = _abandoned(connection).with_for_update(skip_locked=True)  # another supervisor sees to the others
        for row in connection.execute(abandoned).mappings().all():
            end_attempt(connection, row, "lease_expired")
            end_job(connection, row["id"], JobState.CANCELLED)


def _abandoned(connection: Connection) -> Select[Any]:
    return select(jobs).where(jobs.c.state == JobState.CANCELLING, jobs.c.lease_until_ms <= now_ms(connection))


def _attempt(job_id: str, token: int) -> Any:
    return update(attempts).where(attempts.c.job_id == job_id, attempts.c.token == token)
