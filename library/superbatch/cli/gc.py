"""`superbatch gc`: what nothing refers to any more; shown first, removed with --delete."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

from superbatch.cli.client import Service
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.progress import ProgressLine
from superbatch.cli.text import count, duration, shown, table
from superbatch.formats.json_fields import JsonFields

HELP = """What nothing refers to any more: files of deleted jobs, of attempts that died, cache that no data set needs.

    superbatch gc              look only: kind, number, bytes and some names
    superbatch gc --delete     look again and remove it

Safe while jobs run. What is younger than --min-age stays (default: SUPERBATCH_GC_MIN_AGE_S, a day).
"""

POLL_S = 0.5
UNDER_WAY = ("PENDING", "RUNNING")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    parser.add_argument("--delete", action="store_true", help="remove what is found")
    parser.add_argument("--min-age", metavar="AGE", type=age_s, help="younger files stay: 90s, 30m, 12h or 2d")
    parser.set_defaults(run=collect)


def age_s(text: str) -> float:
    """Return an age in seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"an age is a number and s, m, h or d; got {text!r}. For example 12h")
    return float(found[1]) * _SECONDS[found[2]]


def collect(
    options: argparse.Namespace,
    service: Service,
    *,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Exit:
    """Ask for a run, follow it to its end, and print what it found."""
    out = sys.stdout if out is None else out
    body = {"dry_run": not options.delete} | ({} if options.min_age is None else {"min_age_s": options.min_age})
    run, line = service.post("/v1/gc", body), ProgressLine(out)
    try:
        while run.text("state") in UNDER_WAY:
            line.show("waiting for a supervisor" if run.text("state") == "PENDING" else "looking", _so_far(run))
            sleep(POLL_S)
            run = service.get(f"/v1/gc/{run.text('id')}")
    finally:
        line.end()
    print(summary(run), file=out)
    if run.text("state") == "FAILED":
        raise CommandError(f"the collection must come to its end; got {shown(run.optional_text('error') or '')} (gc).")
    return Exit.OK


def summary(run: JsonFields) -> str:
    """Return what a run found, by kind, and what becomes of it."""
    report, is_dry = run.object("report"), bool(run.value.get("dry_run"))
    lines = [_table(report)] if report.objects("found") else []
    total = f"{count(report.integer('files'), 'file')}, {size(report.integer('bytes'))}"
    if not is_dry:
        lines.append(f"removed {total}")
    elif report.integer("files"):
        lines.append(f"{total} may go. Nothing was removed; superbatch gc --delete removes them.")
    else:
        lines.append("nothing may go")
    if young := report.integer("young_files"):
        age = duration(run.number("min_age_s"))
        stays = f"{count(young, 'file')} more, {size(report.integer('young_bytes'))}, younger than {age}"
        lines.append(f"{stays}: kept for now")
    if unknown := report.integer("unknown_files"):
        names = ", ".join(shown(str(name)) for name in _texts(report, "unknown_examples"))
        lines.append(f"left alone: {count(unknown, 'file')} that the service did not write, such as {names}")
    return "\n".join(lines)


def size(num_bytes: int) -> str:
    """Return '512 bytes' or '3.4 GB'."""
    amount, units = float(num_bytes), ["kB", "MB", "GB", "TB", "PB"]
    if num_bytes < 1000:
        return count(num_bytes, "byte")
    while amount >= 1000 and units:
        amount, unit = amount / 1000, units.pop(0)
    return f"{amount:.1f} {unit}"


def _table(report: JsonFields) -> str:
    rows = [
        (
            found.text("kind").replace("_", " "),
            f"{found.integer('files'):,}",
            size(found.integer("bytes")),
            ", ".join(_texts(found, "examples")[:1]),
        )
        for found in report.objects("found")
    ]
    return table(("kind", "files", "size", "for example"), rows)


def _texts(fields: JsonFields, name: str) -> list[str]:
    found = fields.value.get(name)
    return [str(each) for each in found] if isinstance(found, list) else []


def _so_far(run: JsonFields) -> str:
    report = run.object("report")
    return f"{report.integer('looked_at'):,} looked at, {count(report.integer('files'), 'file')} found"
