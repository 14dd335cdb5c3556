"""Published batches that were withdrawn: the learner skipped them, or they hold a row that was excluded since.

Nothing of a published list changes. A reader learns of a withdrawal from the manifest and decides what to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, insert, select

from superbatch.formats.manifest import Revoked
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.queue import job_row, update_job
from superbatch_server.service.catalog.tables import revoked

SHOWN_REASON = 200
"""Characters of a reason that a manifest repeats."""


def revoke(connection: Connection, job_id: str, reasons: Mapping[int, str]) -> int:
    """Withdraw published batches, given as seq to reason; return how many were not withdrawn before."""
    if not reasons:
        return 0
    job = job_row(connection, job_id, lock=True)
    seqs = sorted(reasons)
    between = (revoked.c.job_id == job_id) & revoked.c.seq.between(seqs[0], seqs[-1])
    known = set(connection.execute(select(revoked.c.seq).where(between)).scalars())
    at_ms = now_ms(connection)
    new = [
        {"job_id": job_id, "seq": seq, "reason": reasons[seq], "created_ms": at_ms} for seq in seqs if seq not in known
    ]
    if new:
        connection.execute(insert(revoked), new)
        update_job(connection, job_id, num_revoked=job["num_revoked"] + len(new))
    return len(new)


def revoked_ranges(connection: Connection, job_id: str, *, start: int, stop: int) -> list[Revoked]:
    """Return what is withdrawn of batches [start, stop), in order; neighbours with one reason are one range."""
    query = (
        select(revoked.c.seq, revoked.c.reason)
        .where(revoked.c.job_id == job_id, revoked.c.seq >= start, revoked.c.seq < stop)
        .order_by(revoked.c.seq)
    )
    ranges: list[Revoked] = []
    for seq, reason in connection.execute(query):
        last = ranges[-1] if ranges else None
        shown = reason[:SHOWN_REASON]
        if last is not None and last.first_seq + last.num_batches == seq and last.reason == shown:
            ranges[-1] = Revoked(last.first_seq, last.num_batches + 1, shown)
        else:
            ranges.append(Revoked(seq, 1, shown))
    return ranges
