"""What open_clip is about to read: accepted where every joint batch stays whole, refused with the numbers elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from superbatch.formats.errors import InvalidInput
from superbatch.openclip.plan import ReadingPlan, reading_plan
from superbatch.webdataset.layout import tar_name


@dataclass(frozen=True)
class Arguments:
    """Those of open_clip that matter: b = 8 on two ranks."""

    batch_size: int = 4
    world_size: int = 2
    accum_freq: int = 1
    workers: int = 2
    epochs: int = 1
    train_num_samples: int | None = None
    dataset_resampled: bool = False


def tars(*indices: int) -> list[str]:
    return [f"/tars/{tar_name(index)}" for index in indices]


def test_one_epoch_reads_one_tar_per_rank_and_step() -> None:
    plan = reading_plan(Arguments(), tars(*range(48)), num_samples=192)
    assert plan == ReadingPlan(0, 48, 4, 2, 1, 24)
    assert plan.tars_of_epoch(0) == range(48)
    assert [plan.batch_of(0, step) for step in (0, 1, 23)] == [(0, 0), (1, 0), (23, 0)]


def test_each_epoch_reads_on_where_the_last_one_ended() -> None:
    plan = reading_plan(Arguments(epochs=3), tars(*range(48)), num_samples=64)
    assert [plan.tars_of_epoch(epoch) for epoch in range(3)] == [range(16), range(16, 32), range(32, 48)]
    assert plan.batch_of(2, 7) == (23, 0)


def test_tars_of_one_epoch_are_read_again_in_each() -> None:
    plan = reading_plan(Arguments(epochs=3), tars(*range(16)), num_samples=64)
    assert plan.is_repeated
    assert [plan.tars_of_epoch(epoch) for epoch in range(3)] == [range(16)] * 3
    assert plan.batch_of(2, 7) == (7, 0)


def test_more_tars_than_the_epochs_need_are_a_longer_job() -> None:
    plan = reading_plan(Arguments(epochs=2), tars(*range(48)), num_samples=64)
    assert plan.tars_of_epoch(1) == range(16, 32)


def test_accumulation_counts_micro_steps_and_a_later_begin_counts_from_it() -> None:
    arguments = Arguments(accum_freq=2, workers=3)
    plan = reading_plan(arguments, tars(*range(40, 64)), num_samples=96)
    assert [plan.batch_of(0, step) for step in (0, 1, 2, 11)] == [(10, 0), (10, 1), (11, 0), (15, 1)]


@pytest.mark.parametrize(
    ("change", "indices", "num_samples", "message"),
    [
        ({"dataset_resampled": True}, range(48), 192, "at random"),
        ({}, range(48), 190, "batch size \\* ranks = 4 \\* 2 = 8; got 190.*use 184"),
        ({}, range(48), 4, "use 8"),
        ({"workers": 5}, range(48), 192, "--workers; got 24 steps and 5.*--train-num-samples 160"),
        ({"workers": 3, "accum_freq": 5}, range(24), 96, "--accum-freq; got 12 steps and 5"),
        ({}, [*range(47), 48], 192, "tar 48 where 47"),
        ({}, range(1, 49), 192, "begin with the first tar of a batch"),
        ({"accum_freq": 2}, range(2, 50), 192, "2 \\* 2; got tar 2"),
        ({}, range(46), 192, "one tar per rank and step: 48 .* got 46"),
        ({"epochs": 3}, range(46), 64, "or 48 for 3 epochs; got 46"),
        ({"epochs": 2}, range(8), 64, "16 to read the same"),
    ],
)
def test_what_would_break_a_joint_batch_is_refused(
    change: dict[str, int], indices: list[int], num_samples: int, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        reading_plan(replace(Arguments(), **change), tars(*indices), num_samples=num_samples)


def test_zero_workers_are_one_process() -> None:
    assert reading_plan(Arguments(workers=0), tars(*range(46)), num_samples=184).steps_per_epoch == 23
