"""Runs cases: serves the sample job, starts the loader, breaks what is to break, holds the traces against the log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from superbatch.conformance.cases import Case, sample_batch_size
from superbatch.conformance.checks import Check, Finding, check_case, intact_batches, state_seq
from superbatch.conformance.faults import RESTORED_AFTER_S, BrokenFiles, Fault, ServerFaults, server_faults
from superbatch.conformance.http_server import RunningService
from superbatch.conformance.records import Ended, Leg, StartRecord, read_steps
from superbatch.conformance.sample_job import JOB, SampleJob, make_job
from superbatch.conformance.service import SampleService
from superbatch.conformance.trace import num_lines, trace_path
from superbatch.formats.canonical import JsonValue

TOKEN = "conformance"
REWOUND_BATCHES = 3
DOWN_S = 1.0


class Launcher(Protocol):
    """Runs one start of a loader.

    The law: when `run` returns, nothing that it started runs any more; the lines of each rank lie in the folder that
    SUPERBATCH_TRACE names.
    """

    def run(
        self, leg: Leg, environment: Mapping[str, str], folder: Path, *, is_kill_wanted: Callable[[], bool]
    ) -> Ended:
        """Return how the start ended."""
        ...


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a case showed.

    intact, wanted: joint batches; 0 of 0 where the loader had to refuse.
    findings: the first difference first; empty = passed. refusals: what the service refused, for people.
    """

    case: Case
    findings: tuple[Finding, ...]
    intact: int
    wanted: int
    starts: tuple[StartRecord, ...]
    refusals: tuple[str, ...]
    seconds: float

    @property
    def has_passed(self) -> bool:
        """Claim that nothing was found and every batch is whole."""
        return not self.findings and self.intact == self.wanted

    def failed_checks(self) -> frozenset[Check]:
        """Return the rules that did not hold."""
        return frozenset(finding.check for finding in self.findings)


def run_cases(
    cases: Sequence[Case],
    launcher: Launcher,
    folder: Path,
    *,
    num_steps: int = 24,
    lists_per_s: float | None = 8.0,
    on_result: Callable[[CaseResult], None] = lambda _: None,
) -> list[CaseResult]:
    """Run cases one after the other and return what they showed.

    Args:
        cases: as `cases_of` gives them.
        launcher: runs the loader.
        folder: empty; keeps the sample job, the traces and the output of every start.
        num_steps: batches of the sample job.
        lists_per_s: how fast lists appear after the first four; None: all at once.
        on_result: called after each case.
    Raises:
        OSError: the folder cannot be written, or the command cannot be started.
    """
    legs = [leg for case in cases if case.fault is not Fault.WORLD_SIZE for leg in (case.first, case.second)]
    sizes = [leg.world_size for leg in legs] or [1]
    b = sample_batch_size(sizes, [leg.accumulation for leg in legs] or [1])
    job = make_job(folder / "data", num_batches=num_steps, b=b)
    results = []
    for number, case in enumerate(cases, start=1):
        results.append(run_case(case, job, launcher, folder / f"case-{number:02d}", lists_per_s=lists_per_s))
        on_result(results[-1])
    return results


def run_case(
    case: Case, job: SampleJob, launcher: Launcher, folder: Path, *, lists_per_s: float | None = None
) -> CaseResult:
    """Run one case; see `run_cases`."""
    began_s = time.monotonic()
    folder.mkdir(parents=True)
    served = job.begun_anew("h2") if case.fault is Fault.OTHER_HISTORY else job
    service = SampleService(served, token=TOKEN, faults=server_faults(case.fault, job), lists_per_s=lists_per_s)
    withdrawn = set() if service.faults.revoked_seq is None else {service.faults.revoked_seq}
    state_file = folder / "state.json"
    _write_state(state_file, _first_state(case.fault, job))
    starts: list[StartRecord] = []
    with RunningService(service, down_s=DOWN_S) as running:
        with _broken(job, case.fault, service):
            variables = {**_variables(running.url, folder, case.first, number=1), **_ending(case)}
            starts.append(_start(case.first, variables, launcher, folder / "start-1", job))
        next_seq = state_seq(job, starts[0].state)
        if case.fault.is_stopping and starts[0].state is None:
            next_seq = 0  # a rank that failed early may have kept rank 0 from its first step
        if _goes_on(case, starts[0], next_seq, job):
            assert next_seq is not None
            if case.fault.is_stopping:
                service.faults = ServerFaults()
            if case.fault is Fault.REWOUND_TRAINER:
                next_seq = max(0, next_seq - REWOUND_BATCHES)
                _write_state(state_file, job.state_at(next_seq))
            variables = _variables(running.url, folder, case.second, number=2)
            starts.append(_start(case.second, variables, launcher, folder / "start-2", job))
    skipped = withdrawn | set(service.registry.skipped)
    intact, wanted = (0, 0) if case.fault.is_refused else intact_batches(job, starts, skipped=skipped)
    return CaseResult(
        case=case,
        findings=tuple(check_case(job, starts, fault=case.fault, skipped=skipped)),
        intact=intact,
        wanted=wanted,
        starts=tuple(starts),
        refusals=tuple(service.registry.refusals),
        seconds=time.monotonic() - began_s,
    )


def _goes_on(case: Case, first: StartRecord, next_seq: int | None, job: SampleJob) -> bool:
    """Claim that a second start has something to do, and a state to do it from."""
    if case.fault.is_refused or next_seq is None or next_seq == len(job.batches) or first.ended.has_timed_out:
        return False
    return first.ended.is_success or first.ended.was_killed or case.fault.is_stopping


def _first_state(fault: Fault, job: SampleJob) -> Mapping[str, JsonValue] | None:
    """Return the state that lies there before the first start; None for none."""
    if fault is Fault.OTHER_JOB:
        return {**job.state_at(job.late_seq), "job": "job_another"}
    if fault is Fault.OTHER_HISTORY:
        return job.state_at(job.late_seq)
    return job.state_at(1) if fault is Fault.BEHIND_RETENTION else None


def _variables(url: str, folder: Path, leg: Leg, *, number: int) -> dict[str, str]:
    return {
        "SUPERBATCH_URL": url,
        "SUPERBATCH_JOB": JOB,
        "SUPERBATCH_TOKEN": TOKEN,
        "SUPERBATCH_TRACE": str((folder / f"start-{number}" / "trace").resolve()),
        "SUPERBATCH_STATE": str((folder / "state.json").resolve()),
        "SUPERBATCH_NUM_WORKERS": str(leg.num_workers),
        "SUPERBATCH_ACCUMULATION": str(leg.accumulation),
    }


def _ending(case: Case) -> dict[str, str]:
    if case.fault.is_stopping:
        return {}
    return {"SUPERBATCH_HOLD" if case.ending == "kill" else "SUPERBATCH_STEPS": str(case.at_step)}


def _start(leg: Leg, variables: dict[str, str], launcher: Launcher, folder: Path, job: SampleJob) -> StartRecord:
    trace, state_file = Path(variables["SUPERBATCH_TRACE"]), Path(variables["SUPERBATCH_STATE"])
    trace.mkdir(parents=True)
    hold, steps = variables.get("SUPERBATCH_HOLD"), variables.get("SUPERBATCH_STEPS")

    def is_kill_wanted() -> bool:
        return hold is not None and all(
            num_lines(trace_path(trace, rank)) >= int(hold) * leg.accumulation for rank in range(leg.world_size)
        )

    first_seq = state_seq(job, _read_state(state_file)) or 0
    ended = launcher.run(leg, variables, folder, is_kill_wanted=is_kill_wanted)
    trained, problems = read_steps(trace, leg)
    return StartRecord(
        leg=leg,
        first_seq=first_seq,
        num_steps_wanted=None if steps is None else int(steps),
        steps=trained,
        state=_read_state(state_file),
        ended=ended,
        problems=problems,
    )


@contextmanager
def _broken(job: SampleJob, fault: Fault, service: SampleService) -> Iterator[None]:
    """Break the files of the job; a missing shard comes back some time after the list that needs it was fetched."""
    over = threading.Event()
    needed = next(each for each in job.segments if job.late_seq < each.stop_seq).list_link.rpartition("/")[2]

    def mend_later() -> None:
        while not service.first_request_of_list[needed].wait(0.05):
            if over.is_set():
                return
        over.wait(RESTORED_AFTER_S)
        files.mend()

    with BrokenFiles(job, fault) as files:
        mender = threading.Thread(target=mend_later, daemon=True)
        if fault is Fault.MISSING_SHARD:
            mender.start()
        try:
            yield
        finally:
            over.set()
            if mender.is_alive():
                mender.join()


def _read_state(path: Path) -> Mapping[str, object] | None:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        return {"problem": f"no JSON: {error}"}
    return state if isinstance(state, dict) else {"problem": f"no object: {state!r}"}


def _write_state(path: Path, state: Mapping[str, JsonValue] | None) -> None:
    if state is not None:
        path.write_text(json.dumps(state), encoding="utf-8")
