"""Byte ranges: joined into few reads, cut into parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from superbatch.reading.ranges import ByteRange, Run, coalesce, parts_of

RANGES = st.lists(st.builds(ByteRange, st.integers(0, 200), st.integers(0, 60)), max_size=12)


def test_two_ranges_join_up_to_the_gap() -> None:
    ranges = [ByteRange(15, 5), ByteRange(0, 10)]
    (run,) = coalesce(ranges, gap_bytes=5)
    assert (run.range, run.positions) == (ByteRange(0, 20), (1, 0))
    assert [run.range for run in coalesce(ranges, gap_bytes=4)] == [ByteRange(0, 10), ByteRange(15, 5)]
    assert [run.range for run in coalesce(ranges, gap_bytes=5, max_run_bytes=19)] == [
        ByteRange(0, 10),
        ByteRange(15, 5),
    ]
    assert coalesce([], gap_bytes=0) == []


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 100))
def test_a_part_of_the_runs_holds_no_more_than_the_limit(lengths: list[int], limit: int) -> None:
    runs = [Run(ByteRange(100 * position, length), (position,)) for position, length in enumerate(lengths)]
    parts = [list(part) for part in parts_of(runs, lambda run: run.range.length, max_bytes=limit)]
    assert [run for part in parts for run in part] == runs
    assert all(part for part in parts)
    totals = [sum(run.range.length for run in part) for part in parts]
    assert all(total <= limit or len(part) == 1 for total, part in zip(totals, parts, strict=True))


@given(RANGES, st.integers(0, 50), st.integers(1, 120))
def test_runs_cover_every_range_once_and_stay_apart(ranges: list[ByteRange], gap: int, longest: int) -> None:
    runs = coalesce(ranges, gap_bytes=gap, max_run_bytes=longest)
    assert sorted(position for run in runs for position in run.positions) == list(range(len(ranges)))
    for run in runs:
        inside = [ranges[position] for position in run.positions]
        assert run.range.offset == min(each.offset for each in inside)
        assert run.range.offset + run.range.length == max(each.offset + each.length for each in inside)
        assert len(inside) == 1 or run.range.length <= max([longest, *(each.length for each in inside)])
    assert [run.range.offset for run in runs] == sorted(run.range.offset for run in runs)
