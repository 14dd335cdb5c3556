"""What a wrong step looks like: the difference in one sentence, and the usual cause of that kind of difference.

The cause is a guess from the rows alone; the difference is a fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from superbatch.conformance.records import Leg, Step
from superbatch.formats.slices import slot_range

_SHOWN = 3
_MAX_LEFT_OUT = 4


class Cause(StrEnum):
    """The usual cause of a difference; `advice` says how to get rid of it."""

    SHUFFLE_BUFFER = "shuffle buffer"
    SHUFFLED_ROWS = "shuffled rows"
    ROUND_ROBIN = "round-robin batches"
    NOT_SHARDED = "not sharded"
    DOUBLE_SHARDING = "double sharding"
    OTHER_SLICE = "another slice rule"
    DROPPED_ROW = "dropped row"
    REPEATED_ROW = "repeated row"
    OTHER_BATCH = "another batch"
    OUTSIDE_LOG = "rows outside the log"
    PER_RANK_STATE = "state per rank"
    REPEATED_STEP = "repeated step"
    READ_AHEAD_STATE = "state of the read-ahead"
    SKIPPED_STEP = "skipped step"
    MICRO_STEPS = "micro-steps out of order"
    UNEVEN_RANKS = "ranks of unequal length"
    WENT_ON = "went on over a fault"
    NOT_REFUSED = "not refused"
    ENDED_BADLY = "ended badly"
    NO_STATE = "no usable state"

    @property
    def advice(self) -> str:
        """Return what to look at."""
        return _ADVICE[self]


_ADVICE = {
    Cause.SHUFFLE_BUFFER: "rows of several batches are mixed: switch every shuffle off, the order is part of a batch",
    Cause.SHUFFLED_ROWS: "the right rows in another order: keep slot order (a sampler with shuffle=False)",
    Cause.ROUND_ROBIN: "whole batches are dealt out to ranks in turn: give each rank its slice of every batch",
    Cause.NOT_SHARDED: "every rank trains on the whole batch: take LogBatch.slice(rank, world_size=...)",
    Cause.DOUBLE_SHARDING: "a slice was divided among the ranks once more: switch off the framework's own sharding "
    "(use_distributed_sampler=False; split_batches=True; no DistributedSampler, no split_by_node)",
    Cause.OTHER_SLICE: "rank r of R owns slots [r*b/R, (r+1)*b/R): check rank, world size and slice rule",
    Cause.DROPPED_ROW: "a row was left out: let a read error end the run, or skip the whole batch on all ranks "
    "(no warn_and_continue handler, no drop_last, no filter)",
    Cause.REPEATED_ROW: "a row stands twice: no padding to a full batch, no sampling with replacement",
    Cause.OTHER_BATCH: "the rows are those of another batch: check how batches are counted",
    Cause.OUTSIDE_LOG: "the log holds no such row: trace the uid of the row that was trained on",
    Cause.PER_RANK_STATE: "ranks resumed at different batches: one state {job, history_id, next_seq, log_digest} "
    "serves all ranks and any number of them",
    Cause.REPEATED_STEP: "batches that the state counts as trained were trained again: begin at next_seq",
    Cause.READ_AHEAD_STATE: "the state counts batches that were only loaded: save BatchLog.state_at(seq + 1) after "
    "batch seq was trained",
    Cause.SKIPPED_STEP: "a batch was left out without a report: only BatchLog.skip_batch does that, on all ranks",
    Cause.MICRO_STEPS: "a step has micro-steps 0 .. accumulation - 1 in order, each with its part of the rank's slice",
    Cause.UNEVEN_RANKS: "ranks trained different numbers of steps: collective operations would hang",
    Cause.WENT_ON: "the loader must raise, or skip the whole batch on all ranks: check uids or decode, never replace",
    Cause.NOT_REFUSED: "the loader must raise before the first step: pass state and history to BatchLog",
    Cause.ENDED_BADLY: "the loader should have got over this: look at its output below",
    Cause.NO_STATE: "rank 0 saves BatchLog.state_at(seq + 1) after each step: exactly those four fields",
}


class RowDetective:
    """Compares the rows of a step with the log.

    Args:
        batches: uid per slot, per batch of the log.
    """

    def __init__(self, batches: Sequence[Sequence[bytes]]) -> None:
        self._batches = batches
        self._b = len(batches[0])
        self._known = {uid for batch in batches for uid in batch}

    def expected(self, seq: int, rank: int, leg: Leg) -> tuple[bytes, ...]:
        """Return the rows that a rank must train on at `seq`, in order."""
        slots = slot_range(self._b, rank, world_size=leg.world_size)
        return tuple(self._batches[seq][slots.start : slots.stop])

    def sentence(self, step: Step, rank: int, leg: Leg) -> str:
        """Return the difference between a step and its slice."""
        expected, found = self.expected(step.seq, rank, leg), step.uids
        extra, missing = Counter(found) - Counter(expected), Counter(expected) - Counter(found)
        where = f"batch {step.seq}, rank {rank} of {leg.world_size}"
        if not extra and not missing:
            place = next(slot for slot, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1])
            return f"{where}: the {len(found)} right rows stand in another order, first in place {place}"
        parts = [f"{len(found)} rows where {len(expected)} belong"] if len(found) != len(expected) else []
        parts += [f"{_uids(missing)} missing"] if missing else []
        parts += [f"{_uids(extra)} extra"] if extra else []
        return f"{where}: {', '.join(parts)}"

    def cause(self, steps: Sequence[Step], position: int, rank: int, leg: Leg) -> Cause:
        """Return the usual cause of a step whose rows are not its slice.

        Args:
            steps: all steps of the rank. position: of the wrong one.
        """
        step = steps[position]
        expected, found, batch = self.expected(step.seq, rank, leg), step.uids, tuple(self._batches[step.seq])
        if not set(found) <= self._known:
            return Cause.OUTSIDE_LOG
        if Counter(found) == Counter(expected):
            return Cause.SHUFFLED_ROWS
        if len(found) == self._b and leg.world_size > 1 and set(found) in map(set, self._batches):
            is_dealt = _stride(steps) == leg.world_size or any(
                set(each.uids) != set(self._batches[each.seq]) for each in steps
            )
            return Cause.ROUND_ROBIN if is_dealt else Cause.NOT_SHARDED
        if set(found) <= set(expected) and len(found) * leg.world_size == len(expected):
            return Cause.DOUBLE_SHARDING
        if len(set(found)) < len(found):
            return Cause.REPEATED_ROW
        if self._is_shifted(found, step.seq, rank, leg):
            return Cause.DROPPED_ROW
        if set(found) <= set(batch):
            return Cause.OTHER_SLICE
        if any(found == self.expected(seq, rank, leg) for seq in range(len(self._batches))):
            return Cause.OTHER_BATCH
        return Cause.SHUFFLE_BUFFER

    def order_cause(self, steps: Sequence[Step], position: int, expected_seq: int, leg: Leg) -> Cause:
        """Return the usual cause of a step whose batch is not the next one."""
        step = steps[position]
        if leg.world_size > 1 and _stride(steps) == leg.world_size:
            return Cause.ROUND_ROBIN if len(step.uids) == self._b else Cause.DOUBLE_SHARDING
        return Cause.REPEATED_STEP if step.seq < expected_seq else Cause.SKIPPED_STEP

    def _is_shifted(self, found: Sequence[bytes], seq: int, rank: int, leg: Leg) -> bool:
        """Claim that the rows are the rank's own, in order, from this batch on, with only a few left out between."""
        stop = min(seq + 3, len(self._batches))
        stream = [uid for each in range(seq, stop) for uid in self.expected(each, rank, leg)]
        position = -1
        for uid in found:
            try:
                position = stream.index(uid, position + 1)
            except ValueError:
                return False
        return position + 1 - len(found) <= _MAX_LEFT_OUT


def _stride(steps: Sequence[Step]) -> int | None:
    """Return the distance between the batches of a rank, where it is always the same."""
    strides = {later.seq - earlier.seq for earlier, later in pairwise(steps)}
    return strides.pop() if len(strides) == 1 else None


def _uids(counted: Counter[bytes]) -> str:
    uids = [uid.hex()[:8] for uid in sorted(counted.elements())]
    more = f" and {len(uids) - _SHOWN} more" if len(uids) > _SHOWN else ""
    return f"{len(uids)} {'uid' if len(uids) == 1 else 'uids'} ({', '.join(uids[:_SHOWN])}{more})"
