"""Progress of an open_clip run, as the service sees it."""

from __future__ import annotations

import pytest

from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput
from superbatch.openclip.plan import ReadingPlan
from superbatch.openclip.reports import Saving, StepReports
from tests.superbatch.webdataset.conftest import OpenLog


def plan(steps_per_epoch: int, *, accumulation: int = 1, num_tars: int = 48) -> ReadingPlan:
    return ReadingPlan(0, num_tars * accumulation, 6, 2, accumulation, steps_per_epoch)


@pytest.mark.parametrize(
    ("saving", "durable"),
    [
        (Saving(1, False), [0] * 8 + [8] * 8 + [16] * 8),
        (Saving(2, False), [0] * 16 + [16] * 8),
        (Saving(0, False), [0] * 24),
        (Saving(0, True), [0] * 8 + [8] * 8 + [16] * 8),
    ],
)
def test_a_batch_is_trained_at_its_last_micro_step_and_durable_once_its_epoch_is_saved(
    open_log: OpenLog, service: SampleService, saving: Saving, durable: list[int]
) -> None:
    reports = StepReports(
        open_log, "clip", plan=plan(16, accumulation=2), epochs=range(3), num_workers=2, saving=saving
    )
    seen = []
    for step in range(48):
        reports.trained(step // 2, step % 2, ())
        learner = service.registry.reports["clip"]
        if step % 2:
            seen.append((learner["trained_seq"], learner["durable_seq"]))
        else:
            assert learner["trained_seq"] == step // 2, "its second micro-step is still to come"
    assert seen == [(seq + 1, durable[seq]) for seq in range(24)]


def test_a_resumed_run_begins_at_its_epoch(open_log: OpenLog, service: SampleService) -> None:
    reports = StepReports(open_log, "clip", plan=plan(8), epochs=range(2, 3), num_workers=2, saving=Saving(1, False))
    learner = service.registry.reports["clip"]
    assert (learner["trained_seq"], learner["durable_seq"], learner["world_size"]) == (16, 16, 2)
    assert (learner["read_ahead"], learner["checkpoint_every"]) == (6, 8)
    reports.trained(16, 0, ())
    assert service.registry.reports["clip"]["trained_seq"] == 17


def test_epochs_over_the_same_tars_are_no_progress(open_log: OpenLog) -> None:
    with pytest.raises(InvalidInput, match="3 epochs over the same tars"):
        StepReports(open_log, "clip", plan=plan(24), epochs=range(3), num_workers=0, saving=Saving(1, False))
