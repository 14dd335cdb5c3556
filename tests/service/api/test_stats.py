"""The numbers of a job, against a case worked out by hand."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, update

from superbatch_server.schemas.attempts import CheckpointRef, PoolReport, SourceCounts
from superbatch_server.service.catalog.attempts import report_pool
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.stats import source_stats
from superbatch_server.service.catalog.tables import jobs, segments
from tests.service.api.world import World, answered, problem, sha256


def test_a_new_job_has_empty_numbers(world: World) -> None:
    job = world.submit()
    stats = world.get(f"/v1/jobs/{job}/stats")
    assert (stats["loaded"], stats["trained"], stats["filter_ratio"], stats["rows"]) == (0, 0, None, 100)
    assert (stats["sources"], stats["quarantined"], stats["segments"], stats["schedule"]) == ({}, {}, [], [])
    assert (stats["generation"], stats["max_staleness"]) == (0, None)


def test_what_training_costs_is_told_beside_the_rows_trained(world: World) -> None:
    assert world.get(f"/v1/jobs/{world.submit()}/stats")["trained_flops_fraction"] == 1.0
    variants = [
        {"resolution": 224, "patch": 16, "flops_fraction": 1.0, "share": 0.5},
        {"resolution": 224, "patch": 32, "flops_fraction": 0.28, "share": 0.5},
    ]
    job = world.submit(world.pushed_spec(selection={"b": 8, "N": 2, "variants": variants}))
    assert world.get(f"/v1/jobs/{job}/stats")["trained_flops_fraction"] == pytest.approx(0.64)


def test_filter_ratio_and_lift_per_source() -> None:
    # Half of the pool is emoji; 20 of 100 candidates are kept, 15 of them emoji.
    counts = {"emoji": SourceCounts(candidates=40, selected=15), "flags": SourceCounts(candidates=60, selected=5)}
    per_source = {
        "emoji": {"rows": 110, "eligible": 100, "quarantined": 10},
        "flags": {"rows": 100, "eligible": 100, "quarantined": 0},
    }
    pool = PoolReport(eligible_digest=sha256(b""), rows=210, eligible=200, per_source=per_source, quarantined={})
    stats = source_stats(counts, pool)
    assert stats["emoji"].filter_ratio == pytest.approx(1 - 15 / 40)
    assert stats["flags"].filter_ratio == pytest.approx(1 - 5 / 60)
    assert (stats["emoji"].kept_share, stats["emoji"].pool_share) == (0.75, 0.5)
    assert (stats["emoji"].lift, stats["flags"].lift) == (1.5, 0.5)
    assert (stats["emoji"].rows, stats["emoji"].quarantined, stats["emoji"].filtered) == (110, 10, None)


def test_before_the_pool_is_known_its_share_is_that_of_the_candidates() -> None:
    counts = {"emoji": SourceCounts(candidates=40, selected=15), "flags": SourceCounts(candidates=60, selected=5)}
    stats = source_stats(counts, None)
    assert (stats["emoji"].pool_share, stats["emoji"].eligible) == (0.4, None)
    assert stats["emoji"].lift == pytest.approx(0.75 / 0.4)


def test_a_source_that_was_never_drawn_has_no_ratio() -> None:
    pool = PoolReport(
        eligible_digest=sha256(b""), rows=9, eligible=9, per_source={"logos": {"eligible": 9}}, quarantined={}
    )
    stats = source_stats({}, pool)["logos"]
    assert (stats.candidates, stats.filter_ratio, stats.kept_share, stats.lift) == (0, None, None, None)


def test_the_numbers_of_a_running_job(world: World) -> None:
    job = world.submit(world.pushed_spec())
    world.publish(job, 2, per_source={"emoji": (6, 3), "flags": (2, 1)})
    used = CheckpointRef(id="checkpoint_0000000000000001", sha256=sha256(b"w"), trained_seq=1, generation=1)
    world.publish(job, 1, per_source={"emoji": (6, 1), "flags": (10, 7)}, checkpoint=used, batches=2)
    assert world.attempt is not None
    pool = PoolReport(
        eligible_digest=sha256(b""),
        rows=100,
        eligible=40,
        per_source={"emoji": {"eligible": 20}, "flags": {"eligible": 20}},
        quarantined={"undecodable": 7, "empty_caption": 3},
    )
    with write(world.engine) as connection:
        report_pool(connection, world.attempt, pool)
    answered(world.put_consumer(job, world.report(job, 2)), 200)
    stats = world.get(f"/v1/jobs/{job}/stats")
    assert (stats["loaded"], stats["trained"], stats["filter_ratio"]) == (32, 16, 0.5)
    assert (stats["rows"], stats["eligible"]) == (100, 40)
    assert stats["quarantined"] == {"undecodable": 7, "empty_caption": 3}
    assert stats["sources"]["emoji"]["candidates"] == 18
    assert stats["sources"]["emoji"]["selected"] == 7
    assert stats["sources"]["emoji"]["lift"] == pytest.approx(7 / 16 / 0.5)
    assert stats["consumer_trained_seq"] == 2
    assert [point["staleness"] for point in stats["segments"]] == [None, None, [1, 2]]
    assert stats["max_staleness"] == 2
    assert stats["segments"][2]["learnability_batch"] == [0.5, 0.5]
    assert [row["seq"] for row in stats["schedule"]] == [0, 1, 2, 3]


def test_totals_that_are_kept_equal_those_of_all_segments_and_outlive_them(world: World) -> None:
    job = world.submit(world.pushed_spec())
    used = CheckpointRef(id="checkpoint_0000000000000001", sha256=sha256(b"w"), trained_seq=1, generation=1)
    world.publish(job, 3, per_source={"emoji": (6, 3), "flags": (2, 1)}, batches=2)
    world.publish(job, 2, per_source={"logos": (8, 4)}, checkpoint=used)

    def numbers() -> dict[str, object]:
        stats = world.get(f"/v1/jobs/{job}/stats?num_segments=1")
        return {name: stats[name] for name in ("loaded", "trained", "max_staleness", "sources")}

    kept = numbers()
    assert (kept["loaded"], kept["trained"], kept["max_staleness"]) == (40, 20, 6)
    with write(world.engine) as connection:
        connection.execute(update(jobs).values(totals=None))  # a catalog of before totals were kept
    assert numbers() == kept
    world.publish(job, 1)
    with write(world.engine) as connection:
        connection.execute(delete(segments).where(segments.c.first_seq < 7))
    assert numbers() == kept, "the segments themselves were not read"


def test_the_curves_cover_the_newest_segments_and_the_totals_all(world: World) -> None:
    job = world.submit()
    world.publish(job, 5, per_source={"emoji": (8, 4)})
    stats = world.get(f"/v1/jobs/{job}/stats?num_segments=2")
    assert [point["first_seq"] for point in stats["segments"]] == [3, 4]
    assert [row["seq"] for row in stats["schedule"]] == [3, 4]
    assert stats["loaded"] == 40
    problem(world.client.get(f"/v1/jobs/{job}/stats?num_segments=0"), "validation")
