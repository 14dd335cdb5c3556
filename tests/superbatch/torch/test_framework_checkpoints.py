"""The kit over the frameworks' own checkpoints: saved inside batches, resumed under another accumulation.

Default run: one rank per start, in this process. Long run: two ranks in real processes, killed with signal 9.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from superbatch.conformance.cases import Case, Ending
from superbatch.conformance.faults import Fault
from superbatch.conformance.processes import ProcessLauncher
from superbatch.conformance.records import Leg
from superbatch.conformance.run import Launcher, run_cases
from superbatch.conformance.threads import ThreadLauncher
from superbatch.conformance.trace import Trace
from tests.superbatch.torch.checkpointing import TRAINERS

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks
WITH_LOCAL_RANK = ["sh", "-c", 'LOCAL_RANK=$RANK LOCAL_WORLD_SIZE=$WORLD_SIZE exec "$0" "$@"']


@pytest.fixture(autouse=True)
def _fresh_frameworks() -> Iterator[None]:
    """accelerate keeps its state in classes."""
    yield
    _forget_accelerators()


def _forget_accelerators() -> None:
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)


def check(case: Case, launcher: Launcher, folder: Path) -> None:
    (result,) = run_cases([case], launcher, folder / "case", num_steps=6, lists_per_s=None)
    shown = [*map(str, result.findings), *(start.ended.output for start in result.starts)]
    assert result.has_passed, "\n".join([f"{result.intact} of {result.wanted} batches intact", *shown])
    assert (len(result.starts), result.intact) == (2, result.wanted)


@pytest.mark.parametrize(
    ("accumulation", "following", "ending"), [(2, 4, "stop"), (4, 2, "kill"), (2, 2, "stop"), (3, 1, "stop")]
)
@pytest.mark.parametrize("framework", list(TRAINERS))
def test_a_checkpoint_resumes_with_whole_steps_under_another_accumulation(
    framework: str, accumulation: int, following: int, ending: Ending, tmp_path: Path
) -> None:
    def train(trace: Trace) -> None:
        _forget_accelerators()
        TRAINERS[framework](trace)

    case = Case(Fault.NONE, Leg(1, 0, accumulation), Leg(1, 0, following), ending, 3)
    check(case, ThreadLauncher(train), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("ending", ["kill", "stop"])
@pytest.mark.parametrize("framework", list(TRAINERS))
def test_two_ranks_resume_from_a_checkpoint_at_other_sizes(framework: str, ending: Ending, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.superbatch.torch.checkpointing", framework]
    case = Case(Fault.NONE, Leg(2, 1, 2), Leg(1, 0, 4), ending, 3)
    check(case, ProcessLauncher([*WITH_LOCAL_RANK, *command]), tmp_path)
