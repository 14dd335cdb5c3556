"""The recipes under the conformance kit, in real processes over gloo.

Default run: two starts per adapter (two ranks with a worker each, killed with signal 9, then one rank with
accumulation), the plain one by torchrun, the others with torchrun's variables and without its start-up time. Long run,
all by torchrun: for each adapter 17 cases in which every two values of world size, workers and accumulation before and
after the resume, kind of ending, and fault meet at least once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import examples.trainers
from superbatch.conformance.cases import Case, cases_of
from superbatch.conformance.faults import Fault
from superbatch.conformance.processes import ProcessLauncher
from superbatch.conformance.records import Leg
from superbatch.conformance.run import run_cases

RECIPES = Path(next(iter(examples.trainers.__path__)))
ADAPTERS = ["ddp", "iterable", "accelerate", "lightning", "hf_trainer"]
PAIRWISE = cases_of("pairwise", world_sizes=[1, 2, 4], workers=[0, 1, 3], accumulations=[1, 2], num_steps=24)
FIRST, SECOND = Leg(2, 1, 1), Leg(1, 0, 2)


WITH_LOCAL_RANK = ["sh", "-c", 'LOCAL_RANK=$RANK LOCAL_WORLD_SIZE=$WORLD_SIZE exec "$0" "$@"']


def check(adapter: str, case: Case, folder: Path, *, num_steps: int, timeout_s: float, by_torchrun: bool) -> None:
    """Run one case and show the kit's findings if there are any."""
    command = [sys.executable, str(RECIPES / f"train_{adapter}.py")]
    if by_torchrun:
        launcher = ProcessLauncher(command, template="torchrun", timeout_s=timeout_s)
    else:
        launcher = ProcessLauncher([*WITH_LOCAL_RANK, *command], timeout_s=timeout_s)
    (result,) = run_cases([case], launcher, folder / "case", num_steps=num_steps, lists_per_s=None)
    shown = [*map(str, result.findings), *(start.ended.output for start in result.starts)]
    assert result.has_passed, "\n".join([f"{result.intact} of {result.wanted} batches intact", *shown])
    assert result.intact > 0


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_killed_recipe_goes_on_at_another_world_size(adapter: str, tmp_path: Path) -> None:
    check(
        adapter,
        Case(Fault.NONE, FIRST, SECOND, "kill", 3),
        tmp_path,
        num_steps=6,
        timeout_s=150.0,
        by_torchrun=adapter == "ddp",
    )


def test_two_ranks_skip_together_the_batch_that_one_of_them_cannot_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.superbatch.torch.skipping_trainer"]
    case = Case(Fault.CORRUPT_PICTURE, Leg(2, 1, 2), SECOND, "stop", 3)
    (result,) = run_cases([case], ProcessLauncher(command), tmp_path / "case", num_steps=6, lists_per_s=None)
    assert result.has_passed, [*map(str, result.findings), *(start.ended.output for start in result.starts)]
    (start,) = result.starts
    assert [[step.seq for step in steps] for steps in start.steps] == [[0, 1, 2, 4, 5]] * 2
    assert (result.intact, result.wanted) == (5, 5)


def test_the_set_covers_every_pair_with_at_most_20_cases() -> None:
    assert len(PAIRWISE) <= 20


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(len(PAIRWISE)))
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_pair_of_sizes_and_faults(adapter: str, number: int, tmp_path: Path) -> None:
    check(adapter, PAIRWISE[number], tmp_path, num_steps=24, timeout_s=300.0, by_torchrun=True)
