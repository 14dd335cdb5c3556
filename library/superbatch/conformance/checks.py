"""Holds what a loader trained against the log: pure functions from records to findings.

A case is one start or two. Together they must train every batch once, in order, each rank its own slots; a batch of the
first start counts as trained when the state that was saved says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from superbatch.conformance.causes import Cause, RowDetective
from superbatch.conformance.faults import Fault
from superbatch.conformance.records import StartRecord
from superbatch.conformance.sample_job import SampleJob


class Check(StrEnum):
    """What is checked, each over all steps of all starts."""

    ROWS = "rows"
    ORDER = "order"
    RANKS = "ranks"
    STATE = "state"
    RESUME = "resume"
    FAULT = "fault"
    END = "end"

    @property
    def meaning(self) -> str:
        """Return the rule."""
        return _MEANINGS[self]


_MEANINGS = {
    Check.ROWS: "each rank trains exactly the rows of its slots, in slot order, none missing, extra or twice",
    Check.ORDER: "each rank trains the batches in order, none left out, none twice",
    Check.RANKS: "all ranks train the same steps",
    Check.STATE: "the saved state is that of what was trained: four fields, the same for any number of ranks",
    Check.RESUME: "the next start begins exactly where the saved state says, on all ranks",
    Check.FAULT: "a batch that cannot be had whole ends the run or is skipped on all ranks; a wrong state is refused",
    Check.END: "the processes end in time, with status 0 where nothing stands in the way",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold: where (None = nowhere in particular), what was found, and the usual cause."""

    check: Check
    start: int
    seq: int | None
    rank: int | None
    sentence: str
    cause: Cause

    def __str__(self) -> str:
        return f"start {self.start + 1}: {self.sentence}. Usual cause: {self.cause}; {self.cause.advice}."


def check_case(
    job: SampleJob, starts: Sequence[StartRecord], *, fault: Fault, skipped: Collection[int]
) -> list[Finding]:
    """Return all findings of a case, the first difference first.

    Args:
        job: the truth.
        starts: one or two, in order.
        fault: what went wrong during the first one.
        skipped: batches that the learner reported as skipped, or that the service withdrew.
    """
    detective = RowDetective(job.batches)
    findings: list[Finding] = []
    for number, start in enumerate(starts):
        own_fault = fault if number == 0 else Fault.NONE
        findings += _broken_lines(number, start)
        if own_fault.is_refused:
            findings += _refusal(number, start, own_fault)
            continue
        left_out = _left_out(start, skipped)
        findings += _steps(job, number, start, left_out, detective)
        findings += _fault(job, number, start, own_fault, left_out)
        findings += _end(job, number, start, own_fault, left_out)
        findings += _state(job, number, start, left_out)
    if not findings and not fault.is_refused:
        findings += _missing(job, starts, skipped)
    return findings


def _missing(job: SampleJob, starts: Sequence[StartRecord], skipped: Collection[int]) -> list[Finding]:
    """Return that batches are missing where every step that was trained is right."""
    intact, wanted = intact_batches(job, starts, skipped=skipped)
    if intact == wanted:
        return []
    sentence = f"the case ended after {intact} whole batches where {wanted} belong"
    return [Finding(Check.END, len(starts) - 1, None, None, sentence, Cause.ENDED_BADLY)]


def intact_batches(job: SampleJob, starts: Sequence[StartRecord], *, skipped: Collection[int]) -> tuple[int, int]:
    """Return (joint batches intact, joint batches wanted).

    A batch is intact when the rows that all ranks trained in the start that counts are its rows, each once, in any
    order. All batches of the log are wanted but those that were skipped as a whole.
    """
    wanted = intact = 0
    stops = [start.first_seq for start in starts[1:]] + [len(job.batches)]
    for start, stop in zip(starts, stops, strict=True):
        left_out = _left_out(start, skipped)
        trained: dict[int, Counter[bytes]] = {}
        for steps in start.steps:
            for step in steps:
                trained.setdefault(step.seq, Counter()).update(step.uids)
        counted = [seq for seq in range(start.first_seq, stop) if seq not in left_out]
        wanted += len(counted)
        intact += sum(trained.get(seq) == Counter(job.batches[seq]) for seq in counted)
    return intact, wanted


def _left_out(start: StartRecord, skipped: Collection[int]) -> set[int]:
    """Return the skipped batches that no rank of this start trained, although some rank came further."""
    trained = {step.seq for steps in start.steps for step in steps}
    return {seq for seq in skipped if seq not in trained and seq < max(trained, default=0)}


def _broken_lines(number: int, start: StartRecord) -> list[Finding]:
    return [Finding(Check.END, number, None, None, text, Cause.ENDED_BADLY) for text in start.problems]


def _steps(
    job: SampleJob, number: int, start: StartRecord, left_out: Collection[int], detective: RowDetective
) -> list[Finding]:
    """Return the first difference of each rank, the one of the earliest step first."""
    wanted = [seq for seq in range(start.first_seq, len(job.batches)) if seq not in left_out]
    found: list[tuple[int, Finding]] = []
    for rank, steps in enumerate(start.steps):
        for position, step in enumerate(steps):
            finding = _wrong_order(start, rank, position, wanted, number=number, detective=detective)
            if finding is None and not step.is_whole and position < len(steps) - 1:
                sentence = f"batch {step.seq}, rank {rank}: its micro-steps are not 0 to {start.leg.accumulation - 1}"
                finding = Finding(Check.ORDER, number, step.seq, rank, sentence, Cause.MICRO_STEPS)
            if finding is None and step.is_whole and step.uids != detective.expected(step.seq, rank, start.leg):
                cause = detective.cause(steps, position, rank, start.leg)
                sentence = detective.sentence(step, rank, start.leg)
                finding = Finding(Check.ROWS, number, step.seq, rank, sentence, cause)
            if finding is not None:
                found.append((position, finding))
                break
    return [finding for _, finding in sorted(found, key=lambda each: each[0])]


def _wrong_order(
    start: StartRecord, rank: int, position: int, wanted: Sequence[int], *, number: int, detective: RowDetective
) -> Finding | None:
    steps = start.steps[rank]
    seq = steps[position].seq
    if position < len(wanted) and seq == wanted[position]:
        return None
    if position >= len(wanted):
        sentence = f"rank {rank} trained batch {seq} after the end of the log"
        return Finding(Check.ORDER, number, seq, rank, sentence, Cause.REPEATED_STEP)
    belongs = wanted[position]
    cause = detective.order_cause(steps, position, belongs, start.leg)
    if number > 0 and position == 0 and cause in (Cause.REPEATED_STEP, Cause.SKIPPED_STEP):
        begins = {steps[0].seq for steps in start.steps if steps}
        cause = Cause.PER_RANK_STATE if len(begins) > 1 else cause
        sentence = f"rank {rank} went on with batch {seq} where the saved state says {belongs}"
        return Finding(Check.RESUME, number, seq, rank, sentence, cause)
    sentence = f"rank {rank} trained batch {seq} as step {position} of this start, where batch {belongs} belongs"
    return Finding(Check.ORDER, number, seq, rank, sentence, cause)


def _fault(job: SampleJob, number: int, start: StartRecord, fault: Fault, left_out: Collection[int]) -> list[Finding]:
    """Return whether a batch that could not be had whole was trained all the same."""
    stop_seq = fault.stops_at(job)
    if not fault.is_stopping or stop_seq in left_out:
        return []
    ranks = [
        rank for rank, steps in enumerate(start.steps) if any(step.seq == stop_seq and step.is_whole for step in steps)
    ]
    may_one_rank = fault in (Fault.CORRUPT_PICTURE, Fault.LOST_SHARD)  # its own slice may be whole
    if len(ranks) == start.leg.world_size or (ranks and not may_one_rank):
        sentence = f"ranks {ranks} trained batch {stop_seq}, although {fault.meaning} there"
        return [Finding(Check.FAULT, number, stop_seq, None, sentence, Cause.WENT_ON)]
    if start.ended.is_success:
        sentence = f"the loader ended with status 0 without batch {stop_seq}, although {fault.meaning} there"
        return [Finding(Check.FAULT, number, stop_seq, None, sentence, Cause.WENT_ON)]
    return []


def _refusal(number: int, start: StartRecord, fault: Fault) -> list[Finding]:
    num_steps = max(map(len, start.steps))
    if num_steps:
        sentence = f"{num_steps} steps were trained, although {fault.meaning}"
        return [Finding(Check.FAULT, number, None, None, sentence, Cause.NOT_REFUSED)]
    if start.ended.is_success or start.ended.has_timed_out:
        how = "it waited instead" if start.ended.has_timed_out else "it ended with status 0"
        return [Finding(Check.FAULT, number, None, None, f"{fault.meaning}, but {how}", Cause.NOT_REFUSED)]
    return []


def _end(job: SampleJob, number: int, start: StartRecord, fault: Fault, left_out: Collection[int]) -> list[Finding]:
    """Return whether the start ended as it had to, and after how many steps of each rank."""
    ended, counts = start.ended, [sum(step.is_whole for step in steps) for steps in start.steps]
    if ended.has_timed_out:
        sentence = f"no end and no new step before the time-out; steps per rank: {counts}"
        return [Finding(Check.END, number, None, None, sentence, Cause.ENDED_BADLY)]
    may_stop = fault.is_stopping and fault.stops_at(job) not in left_out
    uneven = _uneven(start, counts)
    if uneven is not None and not may_stop:
        sentence = f"rank {uneven} ended with status 0 after fewer steps than others; steps per rank: {counts}"
        return [Finding(Check.RANKS, number, None, uneven, sentence, Cause.UNEVEN_RANKS)]
    if not (ended.is_success or ended.was_killed or may_stop):
        sentence = f"exit status {_shown(ended.statuses)} after {counts} steps"
        return [Finding(Check.END, number, None, None, sentence, Cause.ENDED_BADLY)]
    if not ended.is_success:
        return []
    wanted = sum(seq not in left_out for seq in range(start.first_seq, len(job.batches)))
    if start.num_steps_wanted is not None and not may_stop:
        wanted = min(wanted, start.num_steps_wanted)
    findings = []
    for rank, count in enumerate(counts):
        if count != wanted and not may_stop:
            sentence = f"rank {rank} trained {count} whole steps where {wanted} belong; all ranks: {counts}"
            findings.append(Finding(Check.RANKS, number, None, rank, sentence, Cause.UNEVEN_RANKS))
    return findings[:1]


def _uneven(start: StartRecord, counts: Sequence[int]) -> int | None:
    """Return a rank that ended by itself, content, before it had trained what another rank had."""
    if len(start.ended.statuses) != start.leg.world_size:
        return None
    ended_well = [rank for rank, status in enumerate(start.ended.statuses) if status == 0]
    return next((rank for rank in ended_well if counts[rank] < max(counts)), None)


def _state(job: SampleJob, number: int, start: StartRecord, left_out: Collection[int]) -> list[Finding]:
    """Return whether the saved state is that of a batch which all ranks had trained."""
    if start.num_steps == 0 and start.state is None:
        return []
    next_seq = state_seq(job, start.state)
    if next_seq is None:
        sentence = (
            "no state was saved" if start.state is None else f"the saved state is none of this log: {start.state}"
        )
        return [Finding(Check.STATE, number, None, None, sentence, Cause.NO_STATE)]
    trained = next((step.seq + 1 for step in reversed(start.steps[0]) if step.is_whole), start.first_seq)
    allowed = trained
    while allowed in left_out:
        allowed += 1
    if next_seq > allowed:
        sentence = f"the saved state counts {next_seq} batches where rank 0 had trained {trained}"
        return [Finding(Check.STATE, number, next_seq, 0, sentence, Cause.READ_AHEAD_STATE)]
    if start.ended.is_success and next_seq < trained:
        sentence = f"the saved state counts {next_seq} batches where rank 0 had trained {trained}"
        return [Finding(Check.STATE, number, next_seq, 0, sentence, Cause.NO_STATE)]
    return []


def state_seq(job: SampleJob, state: Mapping[str, object] | None) -> int | None:
    """Return the next_seq of a state of this job's log, None where it is none."""
    next_seq = None if state is None else state.get("next_seq")
    if isinstance(next_seq, int) and 0 <= next_seq <= len(job.batches) and state == job.state_at(next_seq):
        return next_seq
    return None


def _shown(statuses: Sequence[int | None]) -> str:
    return ", ".join("none" if status is None else str(status) for status in statuses)
