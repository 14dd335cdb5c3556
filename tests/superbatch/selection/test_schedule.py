from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.errors import InvalidInput
from superbatch.formats.schedule import Schedule, largest_super_batch, parse_schedule, super_batch_size
from superbatch.selection.schedule import SelectionSchedule


@pytest.mark.parametrize(
    ("b", "f", "B"),
    [
        (256, 0.8, 1280),
        (1638, 0.8, 8190),
        (32768, 0.8, 163840),
        (100, 0.0, 100),
        (10, 0.9, 100),
        (3, 0.5, 6),
        (7, 0.3, 10),
    ],
)
def test_super_batch_sizes_by_hand(b: int, f: float, B: int) -> None:
    assert super_batch_size(b, f) == B


@given(st.integers(1, 10**6), st.floats(0, 0.99))
def test_a_super_batch_is_never_smaller_than_its_batch(b: int, f: float) -> None:
    assert super_batch_size(b, f) >= b


@pytest.mark.parametrize("f", [-0.1, 1.0, 1.2, float("nan")])
def test_a_filter_ratio_outside_0_and_1_is_refused(f: float) -> None:
    with pytest.raises(InvalidInput, match=r"f must be in \[0, 1\)"):
        super_batch_size(10, f)


@pytest.mark.parametrize(
    ("seq", "linear", "step"), [(0, 0.5, 0.5), (50, 0.65, 0.5), (99, 0.797, 0.5), (100, 0.8, 0.8), (10**6, 0.8, 0.8)]
)
def test_points_are_joined_by_lines_or_steps(seq: int, linear: float, step: float) -> None:
    points = [[0, 0.5], [100, 0.8]]
    assert parse_schedule({"points": points, "between": "linear"}).at(seq) == pytest.approx(linear, rel=1e-12)
    assert parse_schedule({"points": points, "between": "step"}).at(seq) == step
    assert parse_schedule({"points": points}).at(seq) == step


def test_every_field_of_a_job_is_resolved() -> None:
    schedule = SelectionSchedule.parse(
        f={"points": [[0, 0.0], [10, 0.5]], "between": "linear"},
        gain=2.0,
        weights={"points": [[0, [1.0, 0.0]], [10, [1.0, 1.0]]], "between": "linear"},
        criterion={"points": [[0, "easy_reference"], [4, "learnability"]]},
        method="joint",
    )
    at_5 = schedule.at(5)
    assert (at_5.f, at_5.gain, at_5.weights) == (0.25, 2.0, (1.0, 0.5))
    assert (at_5.criterion, at_5.method, at_5.super_batch_size(30)) == ("learnability", "joint", 40)
    assert schedule.at(3).criterion == "easy_reference"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"points": []}, "start at seq 0"),
        ({"points": [[1, 0.5]]}, "start at seq 0"),
        ({"points": [[0, 0.5], [0, 0.6]]}, "start at seq 0 and increase"),
        ({"points": [[0, 0.5]], "between": "cubic"}, "between must be"),
        ({"points": [[0, "joint"], [5, "uniform"]], "between": "linear"}, "schedule of names cannot be linear"),
        ({"points": [[0, 0.5]], "until": 4}, "has the keys"),
        ({"between": "step"}, "has the keys"),
    ],
)
def test_schedules_without_meaning_are_refused(written: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_schedule(written)


def test_seq_counts_from_0() -> None:
    with pytest.raises(InvalidInput, match="seq must be at least 0"):
        parse_schedule(0.5).at(-1)


seqs = st.lists(st.integers(1, 30), max_size=4, unique=True).map(lambda rest: [0, *sorted(rest)])


@given(seqs, st.data(), st.sampled_from(["step", "linear"]), st.integers(1, 40))
def test_the_largest_super_batch_is_the_largest_of_all(
    seqs: list[int], data: st.DataObject, between: str, num_batches: int
) -> None:
    f = parse_schedule({"points": [[seq, data.draw(st.floats(0, 0.95))] for seq in seqs], "between": between})
    assert largest_super_batch(64, f, num_batches) == max(super_batch_size(64, f.at(seq)) for seq in range(num_batches))


def test_a_job_of_no_batches_has_no_largest() -> None:
    with pytest.raises(InvalidInput, match="num_batches must be at least 1"):
        largest_super_batch(64, Schedule(((0, 0.5),)), 0)


def test_schedules_load_without_torch_or_numpy() -> None:
    code = "import sys, superbatch.selection.schedule; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
