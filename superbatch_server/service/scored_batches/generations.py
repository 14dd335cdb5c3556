"""Which batches each generation of the learner scored."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from superbatch_server.service.catalog.tables import segments


@dataclass(frozen=True, slots=True)
class Generation:
    """Batches [first_seq, stop_seq) hold all that this generation scored; others may lie between after a rewind."""

    number: int
    first_seq: int
    stop_seq: int
    num_batches: int


def generations(connection: Connection, job_id: str) -> list[Generation]:
    """Return the generations of a job's published batches, oldest first. Cost: one pass over an index."""
    table = segments.c
    query = (
        select(
            table.generation,
            func.min(table.first_seq),
            func.max(table.first_seq + table.num_batches),
            func.sum(table.num_batches),
        )
        .where(table.job_id == job_id)
        .group_by(table.generation)
        .order_by(table.generation)
    )
    return [Generation(*map(int, row)) for row in connection.execute(query)]


def newest_batches(connection: Connection, job_id: str, generation: int, *, at_most: int) -> list[int]:
    """Return the newest batches of a generation, oldest first."""
    table = segments.c
    query = (
        select(table.first_seq, table.num_batches)
        .where(table.job_id == job_id, table.generation == generation)
        .order_by(table.first_seq.desc())
        .limit(at_most)
    )
    seqs = [seq for first, num in connection.execute(query) for seq in reversed(range(first, first + num))]
    return seqs[:at_most][::-1]
