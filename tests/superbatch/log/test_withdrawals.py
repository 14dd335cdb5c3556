"""Withdrawn batches: skipped by agreement or raised, so that no two ranks ever train on different batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from superbatch.formats.errors import InvalidInput, RevokedBatch
from superbatch.formats.manifest import Revoked
from superbatch.log.withdrawals import Withdrawals
from tests.superbatch.log.conftest import OpenLog
from tests.superbatch.log.fake_service import FakeService

NUM_BATCHES = 6


def handed_out(withdrawals: Withdrawals, *, known_from: dict[Revoked, int]) -> tuple[list[int], int | None]:
    """The batches that a rank trains on, and the one at which it raised; it learns of each withdrawal at a step."""
    trained: list[int] = []
    for seq in range(NUM_BATCHES):
        known = [each for each, step in known_from.items() if step <= seq]
        try:
            if not withdrawals.is_skipped(seq, known):
                trained.append(seq)
        except RevokedBatch:
            return trained, seq
    return trained, None


def subsets(items: Sequence[Revoked]) -> list[tuple[Revoked, ...]]:
    return [chosen for size in range(len(items) + 1) for chosen in itertools.combinations(items, size)]


def test_ranks_that_learn_of_withdrawals_at_other_moments_never_train_on_different_batches() -> None:
    """Every pair of ranks, every moment at which each learns of each of two withdrawals, every agreement before."""
    withdrawals = [Revoked(first_seq=2, num_batches=1, reason="x"), Revoked(first_seq=3, num_batches=2, reason="y")]
    moments = [
        dict(zip(withdrawals, steps, strict=True)) for steps in itertools.product(range(NUM_BATCHES + 1), repeat=2)
    ]
    num_pairs = num_raised = 0
    for agreed in subsets(withdrawals):
        for on_revoked in ("raise", "skip"):
            ranks = [
                handed_out(Withdrawals(on_revoked=on_revoked, skipped=agreed, world_size=2), known_from=known_from)
                for known_from in moments
            ]
            for (first, first_raised), (second, second_raised) in itertools.product(ranks, repeat=2):
                shorter = min(len(first), len(second))
                assert first[:shorter] == second[:shorter], "what both have trained is the same, step by step"
                assert len(first) == len(second) or (first_raised, second_raised) != (None, None)
                num_pairs, num_raised = num_pairs + 1, num_raised + (first_raised is not None)
    raised_of_49 = (49 - 4 * 2) + 7 * 5 + 3 * 7 + 0  # agreed on none, on the first, on the second, on both
    assert (num_pairs, num_raised) == (4 * 2 * 49 * 49, 2 * raised_of_49 * 49)


def test_several_ranks_cannot_be_told_to_skip_without_an_agreement(service: FakeService, open_log: OpenLog) -> None:
    for world_size in (None, 2):
        with pytest.raises(InvalidInput, match=r"broadcast its withdrawn\(\)"):
            open_log(on_revoked="skip", world_size=world_size)
    assert not service.requests


def test_a_single_rank_steps_over_whatever_is_withdrawn_by_then(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(8)
    log = open_log(on_revoked="skip", world_size=1, lists_ahead=1)
    assert next(log).seq == 0
    service.revoked = (Revoked(first_seq=5, num_batches=1, reason="row excluded"),)
    assert [batch.seq for batch in log] == [1, 2, 3, 4, 6, 7]


def test_what_rank_0_found_withdrawn_is_stepped_over_on_all_ranks_and_no_more(
    service: FakeService, open_log: OpenLog
) -> None:
    service.publish_all(12)
    service.revoked = tuple(Revoked(first_seq=seq, num_batches=1, reason="row excluded") for seq in (1, 8))
    agreed = open_log().withdrawn()
    assert agreed == service.revoked
    late = open_log(skipped=agreed, world_size=2)
    service.revoked += (Revoked(first_seq=10, num_batches=2, reason="late"),)
    early = [open_log(skipped=agreed, world_size=2) for _ in range(2)]
    for log in (late, *early):
        assert [next(log).seq for _ in range(8)] == [0, 2, 3, 4, 5, 6, 7, 9]
        with pytest.raises(RevokedBatch, match=r"batch 10 was revoked \(late\).*skipped=withdrawn\(\)"):
            next(log)
    again = open_log(state=late.state(), skipped=open_log(state=late.state()).withdrawn(), world_size=2)
    assert [batch.seq for batch in again] == []


def test_withdrawals_are_gathered_over_all_pages_and_remembered(service: FakeService, open_log: OpenLog) -> None:
    """The service lists what is withdrawn near the batches of a page."""
    service.publish_all(9)
    every = [Revoked(first_seq=seq, num_batches=1, reason=f"r{seq}") for seq in (1, 4, 8)]
    whole_manifest = service.manifest

    def paged(after: int) -> object:
        page = whole_manifest(after)
        stop = page.segments[-1].stop_seq if page.segments else after
        object.__setattr__(page, "revoked", tuple(each for each in every if after <= each.first_seq < stop))
        return page

    service.manifest = paged  # type: ignore[method-assign, assignment]
    assert open_log().withdrawn() == tuple(every)
    log = open_log(on_revoked="skip", world_size=1)
    assert [batch.seq for batch in log] == [0, 2, 3, 5, 6, 7]


def test_a_batch_that_all_ranks_skip_is_stepped_over_and_reported_by_rank_0(
    service: FakeService, open_log: OpenLog
) -> None:
    service.publish_all(8)
    rank_0, rank_1 = (open_log(world_size=2) for _ in range(2))
    rank_0.register("trainer")
    for log in (rank_0, rank_1):
        assert [next(log).seq, next(log).seq] == [0, 1]
        log.skip_batch(1, "unreadable: pool/000003.tar")
        log.skip_batch(4, "unreadable: pool/000007.tar")
    skipped = [
        {"seq": 1, "reason": "unreadable: pool/000003.tar"},
        {"seq": 4, "reason": "unreadable: pool/000007.tar"},
    ]
    assert [report.get("skipped") for report in service.reports] == [None, skipped[:1], skipped]
    service.revoked = tuple(Revoked(each["seq"], 1, each["reason"]) for each in skipped)
    assert [batch.seq for batch in rank_0] == [batch.seq for batch in rank_1] == [2, 3, 5, 6, 7]
    rank_0.progress(trained_seq=8, durable_seq=2)
    assert service.reports[-1]["skipped"] == skipped[1:], "what is saved need not be said again"
    with pytest.raises(RevokedBatch, match=r"batch 1 was revoked \(unreadable: pool/000003\.tar\)"):
        list(open_log())
    assert [batch.seq for batch in open_log(skipped=open_log().withdrawn())] == [0, 2, 3, 5, 6, 7]


def test_a_skip_needs_a_reason_and_a_batch_that_is_not_saved(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(4)
    log = open_log()
    log.register("trainer")
    list(log)
    log.progress(trained_seq=4, durable_seq=3)
    for seq, reason in ((2, "late"), (3, " ")):
        with pytest.raises(InvalidInput, match="skipped with a reason, before its effect is saved"):
            log.skip_batch(seq, reason)
    log.skip_batch(3, "unreadable")
    assert service.reports[-1]["skipped"] == [{"seq": 3, "reason": "unreadable"}]
