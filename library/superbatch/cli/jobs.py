"""`superbatch jobs list`, `cancel` and `retry`, and how an event is shown."""

from __future__ import annotations

import argparse

from superbatch.cli.client import Service
from superbatch.cli.errors import Exit
from superbatch.cli.text import shown, table
from superbatch.formats.json_fields import JsonFields


def add_list_parser(parser: argparse.ArgumentParser, connection: argparse.ArgumentParser) -> None:
    """Describe `jobs list`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list")
    verbs.add_parser("list", help="list jobs", parents=[connection]).set_defaults(run=list_jobs)


def add_job_argument(parser: argparse.ArgumentParser) -> None:
    """Describe a command that takes one job."""
    parser.add_argument("job", metavar="JOB", help="id of the job")


def list_jobs(options: argparse.Namespace, service: Service) -> Exit:  # noqa: ARG001  (every command takes options)
    """Print every job."""
    headings = ("id", "name", "state", "phase", "batches", "created")
    print(table(headings, [_row(item) for item in service.items("/v1/jobs", "jobs")]))
    return Exit.OK


def cancel(options: argparse.Namespace, service: Service) -> Exit:
    """Ask the job to stop; what it published stays."""
    return _do(service, options.job, "cancel")


def retry(options: argparse.Namespace, service: Service) -> Exit:
    """Put a FAILED job back into the queue, where it goes on at its next batch."""
    return _do(service, options.job, "retry")


def event_line(event: JsonFields) -> str:
    """Return one event as one line."""
    return f"{event.text('at')[:19].replace('T', ' ')}  {shown(event.text('kind')):<20}  {shown(event.text('message'))}"


def _do(service: Service, job_id: str, verb: str) -> Exit:
    job = service.post(f"/v1/jobs/{job_id}:{verb}", {})
    print(f"{job.text('id')}  {job.text('state')}")
    return Exit.OK


def _row(job: JsonFields) -> tuple[str, ...]:
    return (
        job.text("id"),
        job.text("name"),
        job.text("state"),
        (job.optional_text("phase") or "-").replace("_", " "),
        f"{job.integer('next_seq'):,}/{job.integer('num_batches'):,}",
        job.text("created_at")[:19].replace("T", " "),
    )
