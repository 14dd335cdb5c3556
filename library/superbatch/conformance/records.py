"""What one start of a loader left behind: the lines of each rank, the saved state, and how its processes ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from superbatch.conformance.trace import trace_path


@dataclass(frozen=True, slots=True)
class Leg:
    """Sizes of one start: ranks, worker processes per rank, micro-steps per optimizer step."""

    world_size: int
    num_workers: int
    accumulation: int

    def __str__(self) -> str:
        return f"{self.world_size} ranks, {self.num_workers} workers, accumulation {self.accumulation}"


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of one rank: the rows of its micro-steps in order; not whole when a micro-step is missing."""

    seq: int
    uids: tuple[bytes, ...]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How the processes of a start ended.

    statuses: exit status per process; negative = killed by that signal; None = it had to be given up.
    was_killed: by the kit, as the case wanted. has_timed_out: by the kit, because nothing happened any more.
    output: the last lines that the processes wrote to standard output and error.
    """

    statuses: tuple[int | None, ...]
    was_killed: bool = False
    has_timed_out: bool = False
    output: str = ""

    @property
    def is_success(self) -> bool:
        """Claim that every process ended by itself with status 0."""
        return not self.was_killed and not self.has_timed_out and all(status == 0 for status in self.statuses)


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One start: its sizes, where its state said to begin, the steps of each rank, and what it left.

    first_seq: next_seq of the state it was given. num_steps_wanted: SUPERBATCH_STEPS, None for all.
    steps: per rank, in the order of training. state: what it saved, None where nothing was.
    """

    leg: Leg
    first_seq: int
    num_steps_wanted: int | None
    steps: tuple[tuple[Step, ...], ...]
    state: Mapping[str, object] | None
    ended: Ended
    problems: tuple[str, ...] = field(default=())

    @property
    def num_steps(self) -> int:
        """Steps that all ranks trained whole."""
        return min(sum(step.is_whole for step in steps) for steps in self.steps)


def read_steps(folder: Path, leg: Leg) -> tuple[tuple[tuple[Step, ...], ...], tuple[str, ...]]:
    """Return the steps of each rank that a trace folder holds, and what in it is no line of a trace.

    A last line without its end is left out: its writer was killed.
    """
    problems: list[str] = []
    per_rank = []
    for rank in range(leg.world_size):
        steps: list[Step] = []
        micros: list[int] = []
        for number, line in enumerate(_lines(trace_path(folder, rank)), start=1):
            try:
                fields = json.loads(line)
                seq, uids = int(fields["seq"]), tuple(bytes.fromhex(uid) for uid in fields["uids"])
                micro = 0 if fields.get("micro") is None else int(fields["micro"])
            except (ValueError, KeyError, TypeError) as error:
                problems.append(f"line {number} of {trace_path(folder, rank).name} is no line of a trace: {error!r}")
                break
            _add(steps, micros, Step(seq, uids, leg.accumulation == 1), micro, leg.accumulation)
        per_rank.append(tuple(steps))
    return tuple(per_rank), tuple(problems)


def _add(steps: list[Step], micros: list[int], step: Step, micro: int, accumulation: int) -> None:
    """Append a micro-step to the step it belongs to: the last one, while that is not whole and of the same batch."""
    if steps and not steps[-1].is_whole and steps[-1].seq == step.seq and micro == len(micros):
        micros.append(micro)
        steps[-1] = Step(step.seq, steps[-1].uids + step.uids, len(micros) == accumulation)
    else:
        micros[:] = [micro]
        steps.append(Step(step.seq, step.uids, accumulation == 1))


def _lines(path: Path) -> Sequence[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return ()
