"""The history of a job, read piece by piece, equals one read at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Engine

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.stats import SourceStats
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.stats import job_stats
from superbatch_server.service.dashboard.curve import Curve
from superbatch_server.service.dashboard.history import LOOK_AT_CLOCK, History, HistoryCache
from superbatch_server.service.dashboard.sources import by_reason, by_source
from tests.service.dashboard.conftest import new_engine
from tests.service.dashboard.seed import Made, publish, seed, set_job


def look(engine: Engine, cache: HistoryCache, job_id: str) -> History:
    with read(engine) as connection:
        row = job_row(connection, job_id)
        return cache.read(connection, row, CurateSpec.model_validate_json(row["spec"]))


def test_reading_only_news_gives_the_same_history(tmp_path: Path) -> None:
    engine = new_engine(tmp_path)
    job_id = seed(engine).jobs["indexing"]
    kept = HistoryCache(read_s=60.0)
    for first in range(0, 120, 40):
        with write(engine) as connection:
            publish(connection, job_id, 40, pushes=True, first=first)
            set_job(connection, job_id, next_seq=first + 40)
        one, other = look(engine, kept, job_id), look(engine, HistoryCache(read_s=60.0), job_id)
        assert one == other
        assert one.next_seq == first + 40
    assert [(len(seqs), rule) for seqs, rule in one.rule_ranges()] == [(46, "easy_reference"), (74, "checkpoint")]
    assert [rule for _, rule in one.not_drawn()] == ["easy_reference"]
    assert [value for _, _, value in one.mean_batch.spans("mean")][:46] == [None] * 46
    engine.dispose()


def test_curves_and_the_api_agree_on_the_numbers(engine: Engine, made: Made) -> None:
    job_id = made.jobs["running"]
    history = look(engine, HistoryCache(read_s=60.0), job_id)
    with read(engine) as connection:
        stats = job_stats(connection, job_id)
    assert total(history.candidates) == stats.loaded
    assert total(history.selected) == stats.trained
    assert history.by_source.keys() == stats.sources.keys()
    for name, (candidates, selected) in history.by_source.items():
        assert (total(candidates), total(selected)) == (stats.sources[name].candidates, stats.sources[name].selected)
    oldest = max(value for _, _, value in history.staleness.spans("max") if value is not None)
    assert oldest == stats.max_staleness
    points = {point.first_seq: point for point in stats.segments}
    drawn = [(start, value) for start, _, value in history.mean_super_batch.spans("mean") if value is not None]
    assert len(drawn) > 200
    assert all(points[seq].learnability_super_batch == [value] for seq, value in drawn)


def test_a_long_history_is_read_in_several_looks(engine: Engine, made: Made) -> None:
    """Each look stops after its time, at the earliest after LOOK_AT_CLOCK segments; the next one goes on there."""
    job_id, impatient = made.jobs["done"], HistoryCache(read_s=-1.0)
    assert [look(engine, impatient, job_id).next_seq for _ in range(3)] == [LOOK_AT_CLOCK, 400, 400]
    assert look(engine, impatient, job_id) == look(engine, HistoryCache(read_s=60.0), job_id)


def test_while_one_reads_the_others_take_what_was_there(own_engine: Engine, own: Made) -> None:
    job_id, cache = own.jobs["running"], HistoryCache(read_s=60.0)
    before = look(own_engine, cache, job_id)
    with write(own_engine) as connection:
        publish(connection, job_id, 5, pushes=True, first=263)
        set_job(connection, job_id, next_seq=268)
        history_id = job_row(connection, job_id)["history_id"]
    with cache._locks[history_id]:
        assert look(own_engine, cache, job_id) is before
    assert look(own_engine, cache, job_id).next_seq == 268
    assert before.next_seq == 263, "what was handed out does not change"


def test_many_readers_see_whole_histories(engine: Engine, made: Made) -> None:
    cache = HistoryCache(read_s=60.0)
    ids = [made.jobs[what] for what in ("running", "done", "failed", "waiting")]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: look(engine, cache, ids[i % len(ids)]), range(24)))
    for i, history in enumerate(found):
        assert history == found[i % len(ids)]


def total(curve: Curve) -> float:
    """Return the sum over all batches."""
    return sum(value for _, _, value in curve.spans("sum") if value is not None)


def test_jobs_without_a_batch_have_an_empty_history(engine: Engine, made: Made) -> None:
    history = look(engine, HistoryCache(read_s=60.0), made.jobs["queued"])
    assert history.next_seq == 0
    assert history.rule_ranges() == []


def test_bars_of_lift_are_symmetric_in_doublings() -> None:
    def offset(lift: float | None) -> float:
        stats = SourceStats(
            rows=1, eligible=1, quarantined=0, filtered=0, candidates=1, selected=1, dropped=0, capped=0,
            filter_ratio=0.0, pool_share=1.0, kept_share=1.0, lift=lift,
        )  # fmt: skip
        return by_source({"s": stats})[0].lift_offset

    assert [offset(lift) for lift in (None, 1.0, 2.0, 0.5, 4.0, 64.0, 0.0)] == [0, 0, 0.5, -0.5, 1, 1, -1]


def test_reasons_come_by_frequency_and_empty_ones_not_at_all() -> None:
    found = by_reason({"empty_caption": 2, "too_large": 0, "bad": 4, "also": 2})
    assert [(reason.name, reason.share) for reason in found] == [("bad", 1.0), ("also", 0.5), ("empty_caption", 0.5)]
