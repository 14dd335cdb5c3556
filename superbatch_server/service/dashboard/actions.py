"""Cancel and retry: a page that asks, with a plain form, and the change itself. Works without scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, RowMapping

from superbatch_server.schemas.errors import NotFound
from superbatch_server.schemas.jobs import Job
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import request_cancel, retry
from superbatch_server.service.dashboard.job_head import JobHead, read_job_head


@dataclass(frozen=True, slots=True)
class Action:
    """What a person may do to a job: the word on the button, and what will happen."""

    verb: str
    button: str
    consequence: Callable[[Job], str]
    change: Callable[[Connection, str], RowMapping]


@dataclass(frozen=True, slots=True)
class Question:
    """The page that asks whether an action is meant."""

    head: JobHead
    verb: str
    button: str
    consequence: str


def _cancels(job: Job) -> str:
    return (
        f"The job stops for good; a cancelled job cannot be retried. Its {job.next_seq:,} published batches stay, the "
        f"other {job.num_batches - job.next_seq:,} are never made."
    )


def _retries(job: Job) -> str:
    return f"The job is queued again and goes on at batch {job.next_seq:,}, with the same history."


ACTIONS = {
    "cancel": Action("cancel", "Cancel this job", _cancels, request_cancel),
    "retry": Action("retry", "Retry this job", _retries, retry),
}


def ask(engine: Engine, job_id: str, verb: str) -> Question:
    """Return the question. Raises: NotFound."""
    action = _action(verb)
    with read(engine) as connection:
        head = read_job_head(connection, job_id, "overview")
    return Question(head, action.verb, action.button, action.consequence(head.job))


def act(engine: Engine, job_id: str, verb: str) -> None:
    """Do it. Raises: NotFound, WrongState."""
    action = _action(verb)
    with write(engine) as connection:
        action.change(connection, job_id)


def _action(verb: str) -> Action:
    if verb not in ACTIONS:
        raise NotFound(f"an action must be one of {', '.join(ACTIONS)}; got {verb[:40]!r} (path).")
    return ACTIONS[verb]
