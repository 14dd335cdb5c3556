"""`superbatch exclusions`: keep rows out of batches not yet composed, and see what that withdrew."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from superbatch.cli.client import Service
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.text import count, shown, table
from superbatch.formats.json_fields import JsonFields

HELP = """Rows that a job must not use any more.

    superbatch exclusions JOB                                    what is excluded, and the batches that this withdrew
    superbatch exclusions JOB --uids FILE --reason 'takedown 17'   exclude more; one uid of 32 hexadecimal digits a line

Published batches that hold such a row are withdrawn: the manifest lists them as revoked, and readers skip them.
"""

UIDS_AT_ONCE = 100_000
_UID = re.compile(r"[0-9a-f]{32}")


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("job", metavar="JOB", help="id of the job")
    parser.add_argument("--uids", metavar="FILE | -", help="file of uids, one a line; '-' reads standard input")
    parser.add_argument("--reason", help="why; shown wherever such a row or its batch is left out")
    parser.set_defaults(run=exclusions)


def exclusions(options: argparse.Namespace, service: Service) -> Exit:
    """Exclude the rows of a file, if one is given, and print what the job leaves out."""
    path = f"/v1/jobs/{options.job}/exclusions"
    if options.uids is None:
        if options.reason is not None:
            raise CommandError("--reason needs --uids, the rows to exclude; got none.")
        _show(service.get(path))
        return Exit.OK
    uids = read_uids(options.uids)
    reason = {} if options.reason is None else {"reason": options.reason}
    for start in range(0, len(uids), UIDS_AT_ONCE):
        found = service.post(path, {"uids": uids[start : start + UIDS_AT_ONCE], **reason})
    _show(found)
    return Exit.OK


def read_uids(name: str) -> list[str]:
    """Return the uids of a file. Raises: CommandError when a line is none, with its number."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"a file of uids must be readable text; got {error} ({shown(name)}).") from error
    uids = [line.strip().lower() for line in text.splitlines()]
    for number, uid in enumerate(uids, start=1):
        if uid and not _UID.fullmatch(uid):
            raise CommandError(
                f"a uid has 32 hexadecimal digits; got {shown(uid[:40])!r} ({shown(name)}, line {number}). "
                "Write one on each line."
            )
    found = sorted({uid for uid in uids if uid})
    if not found:
        raise CommandError(f"a file of uids must name at least one row; got none ({shown(name)}).")
    return found


def _show(found: JsonFields) -> None:
    versions = found.objects("versions")
    if versions:
        print(table(("version", "rows", "when", "reason"), [_row(version) for version in versions]))
    searching = "; published batches are still searched" if found.value.get("is_searching") else ""
    withdrawn = found.integer("num_revoked")
    revoked = f"{withdrawn:,} published {'batch' if withdrawn == 1 else 'batches'} revoked"
    print(f"{count(found.integer('num_uids'), 'row')} excluded, {revoked}{searching}")


def _row(version: JsonFields) -> tuple[str, ...]:
    return (
        str(version.integer("version")),
        f"{version.integer('num_uids'):,}",
        version.text("created_at")[:19].replace("T", " "),
        version.text("reason"),
    )
