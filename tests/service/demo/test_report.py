"""The demo's verdict: hand-computed budgets and tables."""

from __future__ import annotations

import pytest

from superbatch_server.service.demo import report
from superbatch_server.service.demo.stages import curation_flops

SEGMENTS = [
    {"first_seq": 0, "num_batches": 2, "generation": 0, "rule": "easy_reference", "staleness": None, "B": [640, 640]},
    {"first_seq": 2, "num_batches": 2, "generation": 1, "rule": "checkpoint", "staleness": [3, 4], "B": [640, 320]},
    {"first_seq": 4, "num_batches": 1, "generation": 1, "rule": "checkpoint", "staleness": [5], "B": [320]},
]


def test_curation_costs_the_pool_once_and_every_scored_candidate_once() -> None:
    stats: report.JsonObject = {"segments": SEGMENTS}
    assert curation_flops(stats, pool_rows=1000, forward_flops=2.0) == 2.0 * (1000 + 640 + 320 + 320)


def test_the_budget_with_the_reference_adds_its_training_alone() -> None:
    arm = report.Arm(
        name="curated",
        loaded_examples=640,
        trained_examples=128,
        training_flops=3e12,
        curation_flops=2e12,
        reference_flops=4e12,
        retrieval_r5_fraction=0.25,
        zero_shot_fraction=0.5,
        seconds=1.0,
    )
    assert (arm.flops, arm.flops_with_reference) == (5e12, 9e12)
    head, _, row = report.budgets([arm]).splitlines()
    assert head.split() == ["loaded", "trained", "TFLOPs", "with", "reference", "R@5", "zero-shot", "seconds"]
    assert row.split() == ["curated", "640", "128", "5.000", "9.000", "0.250", "0.500", "1"]


def test_batches_are_grouped_by_generation_and_rule() -> None:
    _, _, *rows = report.generations({"segments": SEGMENTS}).splitlines()
    assert [row.split() for row in rows] == [
        ["0", "easy", "reference", "2", "-"],
        ["1", "checkpoint", "3", "3", "to", "5", "batches"],
    ]


def test_unknown_counts_are_shown_as_unknown() -> None:
    source = dict.fromkeys(["rows", "quarantined", "filter_ratio", "lift"]) | {"candidates": 10, "selected": 2}
    _, _, row = report.sources({"sources": {"emoji": source}}).splitlines()
    assert row.split() == ["emoji", "-", "-", "10", "2", "-", "-"]


@pytest.mark.parametrize(
    ("reasons", "sentence"),
    [
        ({}, "No row was quarantined."),
        ({"empty_caption": 2, "picture_too_large": 1}, "3 rows quarantined: 2 empty caption, 1 picture too large."),
    ],
)
def test_quarantine_is_one_sentence(reasons: dict[str, int], sentence: str) -> None:
    assert report.quarantine({"quarantined": reasons}) == sentence
