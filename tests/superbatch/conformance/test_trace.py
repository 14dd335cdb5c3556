"""Trace: what a loader under test reads and writes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from superbatch.conformance.records import Leg, Step, read_steps
from superbatch.conformance.trace import Trace

UID = bytes(range(16))


def test_the_variables_of_the_kit_are_read() -> None:
    found = Trace.from_environment(
        {
            "RANK": "1",
            "WORLD_SIZE": "4",
            "SUPERBATCH_URL": "http://h:1",
            "SUPERBATCH_JOB": "j",
            "SUPERBATCH_TOKEN": "t",
            "SUPERBATCH_TRACE": "/x",
            "SUPERBATCH_STATE": "/y.json",
            "SUPERBATCH_STEPS": "7",
            "SUPERBATCH_HOLD": "9",
            "SUPERBATCH_NUM_WORKERS": "2",
            "SUPERBATCH_ACCUMULATION": "3",
        }
    )
    assert (found.rank, found.world_size, found.url, found.job, found.token) == (1, 4, "http://h:1", "j", "t")
    assert (found.folder, found.state_file, found.max_steps) == (Path("/x"), Path("/y.json"), 7)
    assert (found.hold_step, found.num_workers, found.accumulation) == (9, 2, 3)


def test_without_variables_a_trainer_runs_as_ever() -> None:
    trace = Trace.from_environment({})
    trace.step(0, [UID])
    trace.save_state({"job": "j"})
    assert trace.state() is None
    assert not trace.is_finished
    assert (trace.rank, trace.world_size, trace.num_workers, trace.accumulation) == (0, 1, 0, 1)


def test_a_step_is_one_line_of_json(tmp_path: Path) -> None:
    trace = Trace(rank=2, world_size=3, folder=tmp_path / "made")
    trace.step(5, [UID, bytes(16)])
    trace.step(6, [UID], micro=1)
    lines = [json.loads(line) for line in (tmp_path / "made" / "rank-2.jsonl").read_text().splitlines()]
    assert lines == [
        {"seq": 5, "rank": 2, "uids": [UID.hex(), "00" * 16]},
        {"seq": 6, "rank": 2, "uids": [UID.hex()], "micro": 1},
    ]


def test_a_start_is_finished_after_its_optimizer_steps() -> None:
    trace = Trace(max_steps=2, accumulation=2)
    finished = []
    for seq in range(2):
        for micro in range(2):
            trace.step(seq, [UID], micro=micro)
            finished.append(trace.is_finished)
    assert finished == [False, False, False, True]


def test_the_state_is_that_of_rank_zero_and_comes_back(tmp_path: Path) -> None:
    state = {"job": "j", "history_id": "h", "next_seq": 3, "log_digest": "00"}
    file = tmp_path / "state.json"
    Trace(rank=1, world_size=2, state_file=file).save_state({"next_seq": 9})
    assert Trace(rank=1, world_size=2, state_file=file).state() is None
    Trace(rank=0, state_file=file).save_state(state)
    assert Trace(rank=1, world_size=2, state_file=file).state() == state


def test_rank_zero_saves_only_what_all_ranks_trained(tmp_path: Path) -> None:
    first = Trace(rank=0, world_size=2, folder=tmp_path, state_file=tmp_path / "state.json")
    second = Trace(rank=1, world_size=2, folder=tmp_path)
    first.step(0, [UID])
    saving = threading.Thread(target=first.save_state, args=({"next_seq": 1},))
    saving.start()
    time.sleep(0.05)
    assert first.state() is None
    second.step(0, [UID])
    saving.join(10)
    assert first.state() == {"next_seq": 1}


def test_a_rank_that_does_not_follow_is_named(tmp_path: Path) -> None:
    trace = Trace(rank=0, world_size=3, folder=tmp_path, state_file=tmp_path / "s", lockstep_limit_s=0.05)
    trace.step(0, [UID])
    Trace(rank=1, world_size=3, folder=tmp_path).step(0, [UID])
    with pytest.raises(TimeoutError, match="rank 0 wrote 1 lines, rank 2 0 and no more"):
        trace.save_state({"next_seq": 1})
    assert trace.state() is None


def test_micro_steps_become_one_step_and_a_torn_line_is_none(tmp_path: Path) -> None:
    trace = Trace(folder=tmp_path, accumulation=2)
    trace.step(0, [UID], micro=0)
    trace.step(0, [bytes(16)], micro=1)
    trace.step(1, [UID], micro=0)
    with (tmp_path / "rank-0.jsonl").open("a") as file:
        file.write('{"seq": 1, "ra')
    steps, problems = read_steps(tmp_path, Leg(1, 0, 2))
    assert steps == ((Step(0, (UID, bytes(16)), True), Step(1, (UID,), False)),)
    assert problems == ()


@pytest.mark.parametrize("micros", [[1, 0], [0, 0], [0, 2]])
def test_micro_steps_in_another_order_are_no_whole_step(tmp_path: Path, micros: list[int]) -> None:
    trace = Trace(folder=tmp_path, accumulation=2)
    for micro in micros:
        trace.step(0, [UID], micro=micro)
    steps, _ = read_steps(tmp_path, Leg(1, 0, 2))
    assert not any(step.is_whole for step in steps[0])


def test_a_line_that_is_none_of_a_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "rank-0.jsonl").write_text('{"seq": 0, "uids": ["zz"]}\n')
    steps, problems = read_steps(tmp_path, Leg(1, 0, 1))
    assert steps == ((),)
    assert "line 1 of rank-0.jsonl" in problems[0]


def test_importing_the_trace_needs_the_standard_library_alone() -> None:
    code = (
        "import superbatch.conformance, sys; print(sorted({'torch', 'numpy', 'pyarrow', 'httpx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
