"""One batch as a log hands it out: its rows, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from superbatch.formats.segments import ScoredWith, Segment
from superbatch.formats.slices import slot_range


@dataclass(frozen=True, slots=True)
class LogBatch:
    """One batch of a job.

    seq: its position in the log. rows: b rows in slot order with the columns of a batch list.
    generation: learner refreshes before it was scored. scored_with: the learner checkpoint that scored it, or None.
    rule: what stood in for a checkpoint, or None. f, B: filter ratio and size of its super-batch.
    staleness: seq - trained_seq of that checkpoint, in batches; None without one.
    log_digest: log digest after this batch, 32 bytes.
    """

    seq: int
    rows: pa.RecordBatch
    generation: int
    scored_with: ScoredWith | None
    rule: str | None
    f: float
    B: int
    staleness: int | None
    log_digest: bytes

    def slice(self, rank: int, *, world_size: int, accumulation: int = 1, micro: int | None = None) -> pa.RecordBatch:
        """Return the rows of this batch that one rank trains on, in slot order; nothing is copied.

        Args:
            rank: r, in [0, world_size).
            world_size: R, number of ranks.
            accumulation: A, micro-steps per optimizer step.
            micro: m, in [0, accumulation); None for the rank's whole share.
        Returns:
            b / R rows, or b / (R * A) for one micro-step: those of `superbatch.formats.slices.slot_range`.
        Raises:
            InvalidInput: b is not divisible by world_size * accumulation, or a position is out of range.
        """
        slots = slot_range(self.rows.num_rows, rank, world_size=world_size, accumulation=accumulation, micro=micro)
        return self.rows.slice(slots.start, len(slots))

    @classmethod
    def of(cls, segment: Segment, seq: int, *, rows: pa.RecordBatch, log_digest: bytes) -> LogBatch:
        """Return the batch at `seq`, which lies in `segment`."""
        position = seq - segment.first_seq
        return cls(
            seq=seq,
            rows=rows,
            generation=segment.generation,
            scored_with=segment.scored_with,
            rule=segment.rule,
            f=segment.f[position],
            B=segment.B[position],
            staleness=segment.staleness(seq),
            log_digest=log_digest,
        )
