"""Each mistake is caught by its check, with the batch at which it begins and its usual cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from superbatch.conformance.cases import Case
from superbatch.conformance.causes import Cause
from superbatch.conformance.checks import Check
from superbatch.conformance.faults import Fault
from superbatch.conformance.records import Leg
from superbatch.conformance.run import CaseResult, run_case
from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.threads import ThreadLauncher
from superbatch.conformance.trace import Trace
from tests.superbatch.conformance import loaders

Verify = Callable[..., CaseResult]
TWO_RANKS, THREE_RANKS = Leg(2, 0, 1), Leg(3, 0, 1)


@pytest.fixture
def verify(sample_job: SampleJob, tmp_path: Path) -> Verify:
    """Run one case of a loader: two ranks, killed at step 6, then three ranks."""

    def run(
        loader: Callable[[Trace], None],
        *,
        fault: Fault = Fault.NONE,
        ending: str = "kill",
        first: Leg = TWO_RANKS,
        second: Leg = THREE_RANKS,
        folder: str = "case",
    ) -> CaseResult:
        case = Case(fault, first, second, ending, 6)  # type: ignore[arg-type]
        return run_case(case, sample_job, ThreadLauncher(loader), tmp_path / folder)

    return run


@pytest.mark.parametrize("ending", ["kill", "stop"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_correct_loader_passes(verify: Verify, ending: str, accumulation: int) -> None:
    result = verify(loaders.plain, ending=ending, first=Leg(2, 0, accumulation))
    assert result.has_passed, [str(finding) for finding in result.findings]
    assert (result.intact, result.wanted) == (12, 12)


def test_a_loader_that_skips_a_batch_on_all_ranks_and_says_so_passes(verify: Verify) -> None:
    result = verify(loaders.skipping_together, fault=Fault.CORRUPT_PICTURE)
    assert result.has_passed, [str(finding) for finding in result.findings]
    assert (result.intact, result.wanted, len(result.starts)) == (11, 11, 1)


def test_a_loader_that_steps_over_a_withdrawn_batch_passes(verify: Verify) -> None:
    result = verify(loaders.stepping_over_withdrawn, fault=Fault.WITHDRAWN_BATCH)
    assert result.has_passed, [str(finding) for finding in result.findings]
    assert (result.intact, result.wanted, len(result.starts)) == (11, 11, 1)


def test_a_correct_loader_raises_at_what_is_lost_and_goes_on_once_it_is_mended(verify: Verify) -> None:
    for number, fault in enumerate((Fault.WITHDRAWN_BATCH, Fault.OTHER_JOB, Fault.BEHIND_RETENTION)):
        result = verify(loaders.plain, fault=fault, folder=f"case-{number}")
        assert result.has_passed, [str(finding) for finding in result.findings]


def expect(result: CaseResult, check: Check, cause: Cause, *, seq: int | None = None, rank: int | None = None) -> None:
    """Expect that the first finding says this."""
    assert not result.has_passed
    first = result.findings[0]
    assert (first.check, first.cause) == (check, cause), str(first)
    assert seq is None or first.seq == seq, str(first)
    assert rank is None or first.rank == rank, str(first)
    assert cause.advice in str(first)


def test_a_shuffle_buffer_is_caught(verify: Verify) -> None:
    result = verify(loaders.shuffle_buffer, ending="stop")
    expect(result, Check.ROWS, Cause.SHUFFLE_BUFFER, seq=0)
    assert result.intact == 0


def test_round_robin_batches_are_caught(verify: Verify) -> None:
    expect(verify(loaders.round_robin), Check.ROWS, Cause.ROUND_ROBIN, seq=0)


def test_slices_that_are_dealt_out_once_more_are_caught(verify: Verify) -> None:
    expect(verify(loaders.batches_dealt_out), Check.ORDER, Cause.DOUBLE_SHARDING, seq=1, rank=1)


def test_a_dropped_row_that_shifts_all_later_ones_is_caught(verify: Verify, sample_job: SampleJob) -> None:
    result = verify(loaders.dropped_row, fault=Fault.CORRUPT_PICTURE)
    expect(result, Check.ROWS, Cause.DROPPED_ROW, seq=sample_job.fragile_seq, rank=1)
    # The batches before it, and the last one: rank 1 never fills its last step, so the second start trains that batch.
    assert result.intact == sample_job.fragile_seq + 1
    assert sample_job.fragile.uid.hex()[:8] in result.findings[0].sentence


def test_a_dropped_row_that_leaves_a_step_short_is_caught(verify: Verify, sample_job: SampleJob) -> None:
    result = verify(loaders.short_batch, fault=Fault.CORRUPT_PICTURE)
    expect(result, Check.ROWS, Cause.DROPPED_ROW, seq=sample_job.fragile_seq, rank=1)
    assert result.intact == 11
    assert "11 rows where 12 belong, 1 uid" in result.findings[0].sentence
    assert Check.FAULT in result.failed_checks()


def test_double_sharding_is_caught(verify: Verify) -> None:
    result = verify(loaders.double_sharding)
    expect(result, Check.ROWS, Cause.DOUBLE_SHARDING, seq=0)
    assert "6 rows where 12 belong" in result.findings[0].sentence


def test_a_state_per_rank_is_caught(verify: Verify) -> None:
    result = verify(loaders.state_per_rank, ending="stop")
    expect(result, Check.RESUME, Cause.PER_RANK_STATE, seq=0, rank=2)


def test_a_repeated_step_after_a_resume_is_caught(verify: Verify) -> None:
    expect(verify(loaders.repeated_step, ending="stop"), Check.RESUME, Cause.REPEATED_STEP, seq=5)


def test_a_state_of_the_read_ahead_is_caught(verify: Verify) -> None:
    expect(verify(loaders.read_ahead_state), Check.STATE, Cause.READ_AHEAD_STATE)


def test_a_loader_that_does_not_divide_the_batch_is_caught(verify: Verify) -> None:
    expect(verify(loaders.not_sharded), Check.ROWS, Cause.NOT_SHARDED, seq=0)


def test_strided_slices_are_caught_although_every_union_is_right(verify: Verify) -> None:
    result = verify(loaders.strided)
    expect(result, Check.ROWS, Cause.OTHER_SLICE, seq=0)
    assert (result.intact, result.wanted) == (12, 12)


def test_rows_in_another_order_are_caught(verify: Verify) -> None:
    expect(verify(loaders.shuffled_rows), Check.ROWS, Cause.SHUFFLED_ROWS, seq=0)


def test_rows_that_the_log_does_not_hold_are_caught(verify: Verify) -> None:
    expect(verify(loaders.other_rows), Check.ROWS, Cause.OUTSIDE_LOG, seq=0)


def test_ranks_of_unequal_length_are_caught(verify: Verify) -> None:
    expect(verify(loaders.uneven_ranks), Check.RANKS, Cause.UNEVEN_RANKS, rank=2)


def test_micro_steps_of_the_batch_instead_of_the_slice_are_caught(verify: Verify) -> None:
    expect(verify(loaders.micro_of_batch, first=Leg(2, 0, 2)), Check.ROWS, Cause.OTHER_SLICE, seq=0)


def test_more_than_four_fields_in_the_state_are_caught(verify: Verify) -> None:
    result = verify(loaders.more_in_the_state)
    expect(result, Check.STATE, Cause.NO_STATE)
    assert "samples_seen_by_rank" in result.findings[0].sentence


def test_going_on_over_a_corrupt_picture_is_caught(verify: Verify, sample_job: SampleJob) -> None:
    result = verify(loaders.unchecked, fault=Fault.CORRUPT_PICTURE)
    expect(result, Check.FAULT, Cause.WENT_ON, seq=sample_job.fragile_seq)


def test_a_batch_that_one_rank_alone_skips_is_caught(verify: Verify, sample_job: SampleJob) -> None:
    result = verify(loaders.skipping_alone, fault=Fault.CORRUPT_PICTURE)
    expect(result, Check.ORDER, Cause.SKIPPED_STEP, seq=sample_job.fragile_seq + 1, rank=1)


def test_a_batch_that_all_ranks_skip_without_a_report_is_caught(verify: Verify, sample_job: SampleJob) -> None:
    result = verify(loaders.skipping_in_silence, fault=Fault.CORRUPT_PICTURE)
    expect(result, Check.ORDER, Cause.SKIPPED_STEP, seq=sample_job.fragile_seq + 1)


@pytest.mark.parametrize("fault", [Fault.OTHER_JOB, Fault.OTHER_HISTORY])
def test_a_wrong_state_that_is_not_refused_is_caught(verify: Verify, fault: Fault) -> None:
    expect(verify(loaders.any_state, fault=fault), Check.FAULT, Cause.NOT_REFUSED)


def test_giving_up_at_a_shard_that_comes_back_is_caught(verify: Verify) -> None:
    result = verify(loaders.impatient, fault=Fault.MISSING_SHARD)
    expect(result, Check.END, Cause.ENDED_BADLY)
    assert "pool-004.tar" in result.starts[0].ended.output


def test_a_rewind_that_is_not_reported_is_refused_and_caught(verify: Verify) -> None:
    result = verify(loaders.never_rewinding, fault=Fault.REWOUND_TRAINER, ending="stop")
    expect(result, Check.END, Cause.ENDED_BADLY)
    assert "409 went_back" in result.refusals[0]
