"""Stages by themselves: which tars an epoch passes on, and how the end of a tar is looked at."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from superbatch.formats.errors import UnreadableExample
from superbatch.openclip.plan import ReadingPlan
from superbatch.openclip.stages import EpochTars, WholeTars, end_the_run
from tests.superbatch.openclip.fake_open_clip import Epoch


class Stream:
    """What is left of a tar after its last row, and a command whose status is known at its end."""

    def __init__(self, left: int, status: int) -> None:
        self.left, self.status, self.is_closed = left, status, False

    def read(self, length: int) -> bytes:
        found, self.left = min(length, self.left), max(0, self.left - length)
        return bytes(found)

    def close(self) -> None:
        self.is_closed = True
        if self.status:
            raise OSError(f"exit {self.status}")


def two_rows(tars: Iterator[dict[str, Any]], handler: object) -> Iterator[dict[str, Any]]:
    """Yield two rows of each tar."""
    for tar in tars:
        for _ in range(2):
            yield {"__url__": tar["url"]}


def test_an_epoch_passes_on_its_tars_and_takes_no_more() -> None:
    stage, epoch = EpochTars(ReadingPlan(0, 12, 4, 2, 1, 3), Epoch()), Epoch(1)
    source = iter([{"url": str(index)} for index in range(12)])
    assert [tar["url"] for tar in EpochTars(stage.plan, epoch)(source)] == [str(index) for index in range(6, 12)]


def test_a_tar_is_read_to_its_end_and_closed_before_the_next() -> None:
    streams = [Stream(3 << 20, 0), Stream(0, 0)]
    tars = iter([{"url": str(index), "stream": stream} for index, stream in enumerate(streams)])
    rows = list(WholeTars(two_rows, 2)(tars))
    assert [row["__url__"] for row in rows] == ["0", "0", "1", "1"]
    assert [(stream.left, stream.is_closed) for stream in streams] == [(0, True), (0, True)]


def test_a_status_that_is_known_only_at_the_end_ends_the_run() -> None:
    with pytest.raises(UnreadableExample, match="exit 18"):
        list(WholeTars(two_rows, 2)(iter([{"url": "0", "stream": Stream(0, 18)}])))


def test_an_error_names_its_cause_and_crosses_processes() -> None:
    error = OSError("No such file")
    error.args = (*error.args, "/tars/00000004.tar")  # as webdataset does before it asks
    with pytest.raises(UnreadableExample) as found:
        end_the_run(error)
    assert "/tars/00000004.tar" in str(found.value)
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)

    found.value.args = (*found.value.args, "what webdataset adds")
    with pytest.raises(UnreadableExample) as again:
        end_the_run(found.value)
    assert again.value is found.value
    assert len(again.value.args) == 1
