"""What a job's page says of rows that are excluded and of published batches that were withdrawn."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from superbatch.formats.manifest import Revoked
from superbatch_server.service.catalog.exclusions import get_exclusions
from superbatch_server.service.catalog.revoked import revoked_ranges

SHOWN_RANGES = 8
SHOWN_BATCHES_BACK = 10_000
"""How far back from the newest batch ranges are looked for."""


@dataclass(frozen=True, slots=True)
class WithdrawnRange:
    """Batches that follow each other and were withdrawn for one reason."""

    batches: str
    reason: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The section of the page; `note` says what is excluded and whether the search is over."""

    num_batches: int
    ranges: list[WithdrawnRange]
    note: str
    digest: str


def read_withdrawn(connection: Connection, job_id: str, *, next_seq: int) -> Withdrawn | None:
    """Return what was withdrawn, newest batches first; None for a job without anything of the kind."""
    known = get_exclusions(connection, job_id)
    if not known.num_uids and not known.num_revoked:
        return None
    start = max(0, next_seq - SHOWN_BATCHES_BACK)
    ranges = revoked_ranges(connection, job_id, start=start, stop=next_seq)[::-1][:SHOWN_RANGES]
    return Withdrawn(
        num_batches=known.num_revoked,
        ranges=[WithdrawnRange(_batches(each), each.reason) for each in ranges],
        note=_note(known.num_uids, is_searching=known.is_searching),
        digest=known.digest or "none",
    )


def _batches(each: Revoked) -> str:
    last = each.first_seq + each.num_batches - 1
    return f"{each.first_seq:,}" if each.num_batches == 1 else f"{each.first_seq:,} to {last:,}"


def _note(num_uids: int, *, is_searching: bool) -> str:
    if not num_uids:
        return "No row is excluded."
    rows = "1 row is" if num_uids == 1 else f"{num_uids:,} rows are"
    search = "Published batches are still searched for them." if is_searching else "Published batches were searched."
    return f"{rows} left out of batches composed from now on. {search}"
