"""What a loader under test tells the kit: one JSON line per step it trained, and the state it saved.

The kit starts the loader with these variables; torchrun sets the first two itself.

RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT   as torchrun sets them
SUPERBATCH_URL, SUPERBATCH_JOB, SUPERBATCH_TOKEN   the service and the job
SUPERBATCH_TRACE          folder, empty at the start; rank r appends to rank-<r>.jsonl
SUPERBATCH_STATE          file in which rank 0 saves the state after each step; all ranks resume from it if it exists
SUPERBATCH_STEPS          optimizer steps after which this start ends; not set: go on to the end of the log
SUPERBATCH_HOLD           optimizer steps after which each rank waits inside `step` for the kit to kill it
SUPERBATCH_NUM_WORKERS    worker processes of the loader, 0 = none
SUPERBATCH_ACCUMULATION   micro-steps per optimizer step

A line is {"seq": s, "rank": r, "uids": [hexadecimal, in slot order]}, and with accumulation above 1 "micro": m too, one
line per micro-step. Standard library only, so that any trainer can import it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def trace_path(folder: Path, rank: int) -> Path:
    """Return the file to which a rank appends its lines."""
    return folder / f"rank-{rank}.jsonl"


def num_lines(path: Path) -> int:
    """Return the whole lines of a file, 0 where there is none yet."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@dataclass
class Trace:
    """The variables of one rank, and the lines that it writes; without a folder it writes nothing.

    A trainer may so keep its calls in production: `Trace.from_environment()`, `state()` before the loop, `step` and
    `save_state` in it, `is_finished` at its end.

    rank, world_size: this rank r of R.
    url, job, token: what BatchLog takes; None where not set.
    folder: where lines go; None for nowhere. state_file: where the state goes; None for nowhere.
    max_steps: optimizer steps of this start; None for all. hold_step: wait for a kill after so many; None for never.
    num_workers: worker processes of the loader. accumulation: micro-steps per optimizer step.
    lockstep_limit_s: how long rank 0 waits, before it saves, for the slowest rank to train the same number of steps.
    """

    rank: int = 0
    world_size: int = 1
    url: str | None = None
    job: str | None = None
    token: str | None = field(default=None, repr=False)
    folder: Path | None = None
    state_file: Path | None = None
    max_steps: int | None = None
    hold_step: int | None = None
    num_workers: int = 0
    accumulation: int = 1
    lockstep_limit_s: float = 30.0
    num_steps: int = field(default=0, init=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Trace:
        """Return what the variables say; those that are not set keep their default."""
        get = environment.get
        steps, hold = get("SUPERBATCH_STEPS"), get("SUPERBATCH_HOLD")
        return cls(
            rank=int(get("RANK", "0")),
            world_size=int(get("WORLD_SIZE", "1")),
            url=get("SUPERBATCH_URL"),
            job=get("SUPERBATCH_JOB"),
            token=get("SUPERBATCH_TOKEN"),
            folder=_path(get("SUPERBATCH_TRACE")),
            state_file=_path(get("SUPERBATCH_STATE")),
            max_steps=int(steps) if steps else None,
            hold_step=int(hold) if hold else None,
            num_workers=int(get("SUPERBATCH_NUM_WORKERS") or 0),
            accumulation=int(get("SUPERBATCH_ACCUMULATION") or 1),
        )

    def state(self) -> dict[str, object] | None:
        """Return the saved state to resume from, or None at the start; the same on all ranks."""
        if self.state_file is None or not self.state_file.exists():
            return None
        state: dict[str, object] = json.loads(self.state_file.read_text(encoding="utf-8"))
        return state

    def step(self, seq: int, uids: Iterable[bytes], *, micro: int | None = None) -> None:
        """Write that this rank trained on these rows of batch `seq`, in this order.

        Args:
            seq: position of the batch in the log.
            uids: uid per row that entered the model, 16 bytes each: taken from what was trained on, not from the list.
            micro: m in [0, accumulation) of this micro-step; None without accumulation.
        """
        line: dict[str, object] = {"seq": int(seq), "rank": self.rank, "uids": [bytes(uid).hex() for uid in uids]}
        if micro is not None:
            line["micro"] = int(micro)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with trace_path(self.folder, self.rank).open("ab", buffering=0) as file:  # one write is one whole line
                file.write(json.dumps(line).encode() + b"\n")
        self.num_steps += micro is None or micro == self.accumulation - 1
        if self.hold_step is not None and self.num_steps >= self.hold_step:
            self.hold()

    def hold(self) -> None:
        """Wait to be killed, between a step and the saving of its state: the moment at which most is in flight."""
        while True:
            time.sleep(60.0)

    @property
    def is_finished(self) -> bool:
        """Claim that this start has trained all the steps that SUPERBATCH_STEPS allows."""
        return self.max_steps is not None and self.num_steps >= self.max_steps

    def save_state(self, state: Mapping[str, object]) -> None:
        """Save the state to resume from, as a trainer checkpoint would; other ranks than 0 do nothing.

        A checkpoint holds what all ranks trained. Ranks that share no collective operation drift apart, so rank 0
        waits until every rank has written as many lines as it has.

        Args:
            state: what `BatchLog.state_at(seq + 1)` returned after batch `seq` was trained.
        Raises:
            TimeoutError: a rank did not follow within lockstep_limit_s.
        """
        if self.rank != 0 or self.state_file is None:
            return
        self._wait_for_all_ranks()
        part = self.state_file.with_name(self.state_file.name + ".part")
        part.write_text(json.dumps(dict(state)), encoding="utf-8")
        part.replace(self.state_file)

    def _wait_for_all_ranks(self) -> None:
        if self.folder is None:
            return
        wanted = num_lines(trace_path(self.folder, 0))
        limit_s = time.monotonic() + self.lockstep_limit_s
        for rank in range(1, self.world_size):
            while (found := num_lines(trace_path(self.folder, rank))) < wanted:
                if time.monotonic() > limit_s or self.is_gone(rank):
                    raise TimeoutError(
                        f"all ranks train the same steps; rank 0 wrote {wanted} lines, rank {rank} {found} and no more "
                        f"({self.folder}). In training, the collective operations would hang here: look at what that "
                        "rank waits for."
                    )
                time.sleep(0.005)

    def is_gone(self, rank: int) -> bool:  # noqa: ARG002  (a process cannot tell)
        """Claim that another rank has ended, so that waiting for it is in vain."""
        return False


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
