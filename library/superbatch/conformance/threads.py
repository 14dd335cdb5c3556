"""Runs a loader that is a Python function in this process, one thread per rank: the fast path for the kit's own tests.

What a thread cannot show are a real kill and worker processes; `superbatch.conformance.processes` shows those.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from superbatch.conformance.records import Ended, Leg
from superbatch.conformance.trace import Trace


class Killed(BaseException):
    """Ends a rank in place of signal 9."""


class _ThreadTrace(Trace):
    """A trace whose hold ends the rank, and whose steps end it once another rank has failed."""

    stop: threading.Event
    ended: set[int]

    def is_gone(self, rank: int) -> bool:
        return rank in self.ended

    def hold(self) -> None:
        raise Killed

    def step(self, seq: int, uids: object, *, micro: int | None = None) -> None:
        if self.stop.is_set():
            raise Killed
        super().step(seq, uids, micro=micro)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ThreadLauncher:
    """Runs `loader(trace)` once per rank.

    loader: what a command's main would do, given its variables.
    timeout_s: longest time of one start.
    """

    loader: Callable[[Trace], None]
    timeout_s: float = 60.0

    def run(
        self,
        leg: Leg,
        environment: Mapping[str, str],
        folder: Path,  # noqa: ARG002  (output goes into the record)
        *,
        is_kill_wanted: Callable[[], bool],  # noqa: ARG002  (a rank ends itself where it would hold)
    ) -> Ended:
        """Run all ranks to their ends; `hold` ends a rank as a kill would."""
        stop = threading.Event()
        statuses: list[int | None] = [None] * leg.world_size
        killed: list[int] = []
        ended: set[int] = set()
        outputs: list[str] = []

        def run_rank(rank: int) -> None:
            variables = {**environment, "RANK": str(rank), "WORLD_SIZE": str(leg.world_size)}
            trace = _ThreadTrace.from_environment(variables)
            assert isinstance(trace, _ThreadTrace)
            trace.stop, trace.ended = stop, ended
            try:
                self.loader(trace)
                statuses[rank] = 0
            except Killed:
                killed.append(rank)
                statuses[rank] = -9
            except Exception:  # whatever a loader raises ends its process
                outputs.append(traceback.format_exc(limit=-4))
                statuses[rank] = 1
                stop.set()
            finally:
                ended.add(rank)

        threads = [threading.Thread(target=run_rank, args=(rank,), daemon=True) for rank in range(leg.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.timeout_s)
        return Ended(
            tuple(statuses),
            was_killed=bool(killed) and not outputs,
            has_timed_out=None in statuses,
            output="\n".join(outputs),
        )
