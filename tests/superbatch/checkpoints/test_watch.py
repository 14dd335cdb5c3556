"""A watched folder: each complete file is pushed once and in order, whatever the time of day."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from superbatch.checkpoints.ledger import FileStamp, Ledger
from superbatch.checkpoints.watch import RETRY_S, CheckpointWatch, Rules
from superbatch.formats.errors import InvalidInput, ServiceError, ServiceUnreachable

SETTLE_S = 10.0


class Trainer:
    """A folder, its watch, and what was pushed."""

    def __init__(self, folder: Path, **rules: object) -> None:
        self.folder = folder
        self.rules = Rules(**{"batches_per_epoch": 100, "settle_s": SETTLE_S, **rules})  # type: ignore[arg-type]
        self.pushed: list[tuple[str, int]] = []
        self.lines: list[str] = []
        self.now_s = 0.0
        self.faults: dict[str, Exception] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew with what is on the disk."""
        self.watch = CheckpointWatch(
            self.folder,
            self.rules,
            push=self.push,
            ledger=Ledger(self.folder / ".ledger.jsonl"),
            report=self.lines.append,
            clock=lambda: self.now_s,
        )

    def push(self, path: Path, trained_seq: int) -> str:
        if path.name in self.faults:
            raise self.faults[path.name]
        self.pushed.append((path.name, trained_seq))
        return "pushed"

    def write(self, name: str, content: bytes = b"weights", *, mtime_s: float = 1_000.0) -> None:
        (self.folder / name).write_bytes(content)
        os.utime(self.folder / name, (mtime_s, mtime_s))

    def look(self, *, after_s: float = 0.0) -> int:
        self.now_s += after_s
        return self.watch.look()

    def settle(self) -> int:
        self.look()
        return self.look(after_s=SETTLE_S)


def test_files_are_pushed_once_with_the_fewest_batches_first(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    for name in ("epoch_10.pt", "epoch_2.pt", "epoch_1.pth", "step-3.safetensors", "notes.txt"):
        trainer.write(name)
    trainer.settle()
    wanted = [("epoch_1.pth", 100), ("epoch_2.pt", 200), ("step-3.safetensors", 300), ("epoch_10.pt", 1000)]
    assert trainer.pushed == wanted
    trainer.settle()
    trainer.restart()
    trainer.settle()
    assert trainer.pushed == wanted
    trainer.write("epoch_11.pt")
    trainer.settle()
    assert trainer.pushed == [*wanted, ("epoch_11.pt", 1100)]


def test_a_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    for length in range(4):
        trainer.write("epoch_1.pt", b"x" * length)
        assert trainer.look(after_s=SETTLE_S - 1) == 1
    for mtime_s in (2_000.0, 3_000.0):  # as long as before, and another file
        trainer.write("epoch_1.pt", b"yyy", mtime_s=mtime_s)
        assert trainer.look(after_s=SETTLE_S - 1) == 1
    assert trainer.pushed == []
    assert trainer.look(after_s=SETTLE_S) == 0
    assert trainer.pushed == [("epoch_1.pt", 100)]


def test_an_empty_file_is_never_complete(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("epoch_1.pt", b"")
    assert trainer.settle() == 1
    assert trainer.pushed == []


@pytest.mark.parametrize("mtime_s", [0.0, 1e10])
def test_the_time_of_day_decides_nothing(tmp_path: Path, mtime_s: float) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("epoch_1.pt", mtime_s=mtime_s)
    assert trainer.look() == 1
    assert trainer.look(after_s=SETTLE_S) == 0
    assert trainer.pushed == [("epoch_1.pt", 100)]


def test_with_markers_a_file_is_complete_when_its_marker_is_there(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, needs_marker=True)
    trainer.write("epoch_1.pt")
    assert trainer.settle() == 1
    trainer.write("epoch_1.pt.done", b"")
    assert trainer.look() == 0
    assert trainer.pushed == [("epoch_1.pt", 100)]


def test_a_sidecar_says_how_many_batches_and_wins_over_the_name(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("epoch_1.pt")
    trainer.write("latest.pt")
    for name, trained_seq in (("epoch_1.pt", 77), ("latest.pt", 88)):
        trainer.write(f"{name}.json", json.dumps({"trained_seq": trained_seq}).encode())
    trainer.settle()
    assert trainer.pushed == [("epoch_1.pt", 77), ("latest.pt", 88)]


def test_without_batches_per_epoch_a_file_waits_for_its_sidecar(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, batches_per_epoch=None)
    trainer.write("epoch_1.pt")
    assert trainer.settle() == 1
    trainer.write("epoch_1.pt.json", b'{"trained_seq": 5}')
    trainer.settle()
    assert trainer.pushed == [("epoch_1.pt", 5)]


def test_bad_files_are_reported_once_and_the_others_go_on(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    for name in ("epoch_1.pt", "epoch_2.pt", "epoch_3.pt", "epoch_4.pt", "latest.pt"):
        trainer.write(name)
    trainer.write("epoch_4.pt.json", b'{"trained_seq": "many"}')
    trainer.faults = {
        "epoch_1.pt": InvalidInput("a pickle"),
        "epoch_2.pt": ServiceError(422, "seq_beyond_log", "too many batches"),
    }
    for _ in range(3):
        trainer.settle()
        trainer.restart()
    assert trainer.pushed == [("epoch_3.pt", 300)]
    refusals = sorted(line.split(" REFUSED ")[0] for line in trainer.lines if "REFUSED" in line)
    assert refusals == ["epoch_1.pt:", "epoch_2.pt:", "epoch_4.pt:", "latest.pt:"]
    assert any("[seq_beyond_log]" in line and "too many batches" in line for line in trainer.lines)
    trainer.faults.clear()
    trainer.write("epoch_1.pt", b"another file")
    trainer.settle()
    assert trainer.pushed[-1] == ("epoch_1.pt", 100), "a file that changed is tried again"


def test_a_service_that_does_not_answer_is_no_fault_of_a_file(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("epoch_1.pt")
    trainer.write("epoch_2.pt")
    trainer.faults = {"epoch_1.pt": ServiceUnreachable("silent")}
    assert trainer.settle() == 1
    assert trainer.pushed == []
    trainer.faults.clear()
    assert trainer.look() == 0
    assert trainer.pushed == [("epoch_1.pt", 100), ("epoch_2.pt", 200)]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_file_can_mend_ends_the_watch_and_refuses_no_file(tmp_path: Path, status: int) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("epoch_1.pt")
    trainer.faults = {"epoch_1.pt": ServiceError(status, "x", "x")}
    with pytest.raises(ServiceError):
        trainer.settle()
    trainer.faults.clear()
    trainer.restart()
    trainer.settle()
    assert trainer.pushed == [("epoch_1.pt", 100)]


def test_a_ledger_survives_a_torn_line_and_loses_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    stamps = [FileStamp(f"epoch_{number}.pt", 10, number) for number in range(3)]
    for stamp in stamps[:2]:
        Ledger(path).add(stamp, "pushed")
    path.write_bytes(path.read_bytes()[:-5])
    ledger = Ledger(path)
    assert [ledger.is_done(stamp) for stamp in stamps] == [True, False, False]
    ledger.add(stamps[2], "pushed")
    again = Ledger(path)
    assert [again.is_done(stamp) for stamp in stamps] == [True, False, True]


@pytest.mark.parametrize(
    "fault",
    [
        OSError(28, "No space left on device"),
        ServiceError(413, "upload_quota", "uploads may take 64 GiB"),
        ServiceError(409, "second_learner", "other goes on"),
        ServiceError(507, "insufficient_storage", "the disk is full"),
    ],
)
def test_a_fault_that_may_pass_is_tried_again_after_a_while(tmp_path: Path, fault: Exception) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("epoch_1.pt")
    trainer.write("epoch_2.pt")
    trainer.faults["epoch_1.pt"] = fault
    assert trainer.settle() == 1
    assert trainer.pushed == [("epoch_2.pt", 200)], "the others need not wait"
    del trainer.faults["epoch_1.pt"]
    assert trainer.look() == 1, "not at once: a conversion takes its time"
    assert trainer.look(after_s=RETRY_S) == 0
    assert trainer.pushed == [("epoch_2.pt", 200), ("epoch_1.pt", 100)]
    assert trainer.watch.num_refused == 0


def test_a_sidecar_that_is_written_or_mended_later_counts(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.write("final.pt")
    trainer.settle()
    assert "REFUSED" in trainer.lines[-1]
    trainer.write("final.pt.json", b'{"trained', mtime_s=1_001.0)
    trainer.settle()
    assert "REFUSED" in trainer.lines[-1]
    trainer.write("final.pt.json", b'{"trained_seq": 30}', mtime_s=1_002.0)
    trainer.settle()
    assert trainer.pushed == [("final.pt", 30)]
    trainer.restart()
    trainer.settle()
    assert len(trainer.pushed) == 1
