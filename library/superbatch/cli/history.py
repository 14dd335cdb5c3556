"""`superbatch events` and `superbatch logs`: what happened to a job, and what its attempts wrote."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from superbatch.cli.client import Service
from superbatch.cli.errors import Exit
from superbatch.cli.jobs import event_line
from superbatch.cli.text import shown
from superbatch.cli.watch import FINAL

POLL_S = 1.0
PART_BYTES = 256 << 10
Sleep = Callable[[float], None]

EVENTS_HELP = "Print a job's history, oldest first; with --follow until the job is over."
LOGS_HELP = """Print what the newest attempt of a job wrote, or another one's with --attempt.

With --follow it goes on as the attempt writes, and with the next attempt, until the job is over.
"""


def add_events_parser(parser: argparse.ArgumentParser) -> None:
    """Describe `events`."""
    _add_follow(parser)
    parser.set_defaults(run=events)


def add_logs_parser(parser: argparse.ArgumentParser) -> None:
    """Describe `logs`."""
    _add_follow(parser)
    parser.add_argument("--attempt", type=int, metavar="N", help="which attempt's, counted from 1 (the newest)")
    parser.add_argument("--tail", type=int, metavar="BYTES", help="begin this many bytes before the end")
    parser.set_defaults(run=logs)


def events(
    options: argparse.Namespace, service: Service, *, out: TextIO | None = None, sleep: Sleep = time.sleep
) -> Exit:
    """Print the job's history."""
    out, after = sys.stdout if out is None else out, 0
    while True:
        is_over = not options.follow or _is_over(service, options.job)
        for event in service.items(f"/v1/jobs/{options.job}/events", "events", {"after": after}):
            after = event.integer("id")
            print(event_line(event), file=out, flush=True)
        if is_over:
            return Exit.OK
        sleep(POLL_S)


@dataclass
class _Lines:
    """Puts the parts of a log together to lines, without what would move a terminal's cursor."""

    out: TextIO
    _rest: str = field(default="")

    def write(self, text: str) -> None:
        """Print every line that is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            print(_printable(line), file=self.out)
        self.out.flush()

    def end(self) -> None:
        """Print what is left of a last line that has no end."""
        if self._rest:
            self.write("\n")


def logs(
    options: argparse.Namespace, service: Service, *, out: TextIO | None = None, sleep: Sleep = time.sleep
) -> Exit:
    """Print the log of an attempt."""
    lines = _Lines(sys.stdout if out is None else out)
    attempt, after = options.attempt, -options.tail if options.tail else 0
    while True:
        # Asked before the log: what an attempt writes before its job is over is then in the part that follows.
        is_over = not options.follow or _is_over(service, options.job)
        query = {"after": after, "limit": PART_BYTES} | ({} if attempt is None else {"attempt": attempt})
        part = service.get(f"/v1/jobs/{options.job}/logs", query)
        lines.write(part.text("text"))
        begun, after = part.integer("attempt"), part.integer("next_after")
        attempt = attempt or begun or None
        is_read = after >= part.integer("size")
        if is_read and (is_over or (part.boolean("is_over") and options.attempt is not None)):
            lines.end()
            return Exit.OK
        if is_read and part.boolean("is_over"):
            newest = service.get(f"/v1/jobs/{options.job}").integer("attempt")
            if attempt is not None and newest > attempt:
                lines.end()
                attempt, after = attempt + 1, 0
                continue
        if is_read:
            sleep(POLL_S)


def _is_over(service: Service, job_id: str) -> bool:
    return service.get(f"/v1/jobs/{job_id}").text("state") in FINAL


def _printable(line: str) -> str:
    indent = len(line) - len(line.lstrip(" \t"))
    return line[:indent].expandtabs(4) + shown(line)


def _add_follow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="id of the job")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
