"""The history of a job, read piece by piece, equals one read at once."""

from __future__ import annotations

import math
from pathlib import Path

from sqlalchemy import Engine

from superbatch_server.schemas.stats import SourceStats
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.stats import job_stats, source_stats
from superbatch_server.service.dashboard.history import History, HistoryCache
from superbatch_server.service.dashboard.sources import by_reason, by_source
from tests.service.dashboard.conftest import new_engine
from tests.service.dashboard.seed import Made, publish, seed, set_job


def look(engine: Engine, cache: HistoryCache, job_id: str) -> History:
    with read(engine) as connection:
        return cache.read(connection, job_row(connection, job_id))


def columns(history: History) -> tuple[list[object], ...]:
    arrays = (history.staleness, history.generation, history.mean_batch, history.mean_super_batch)
    return tuple([None if math.isnan(value) else value for value in array] for array in arrays)


def test_reading_only_news_gives_the_same_history(tmp_path: Path) -> None:
    engine = new_engine(tmp_path)
    job_id = seed(engine).jobs["indexing"]
    kept = HistoryCache()
    for first in range(0, 120, 40):
        with write(engine) as connection:
            publish(connection, job_id, 40, pushes=True, first=first)
            set_job(connection, job_id, next_seq=first + 40)
        one, other = look(engine, kept, job_id), look(engine, HistoryCache(), job_id)
        assert columns(one) == columns(other)
        assert (one.per_source, one.rules, one.next_seq) == (other.per_source, other.rules, first + 40)
    assert [(len(seqs), rule) for seqs, rule in one.rule_ranges()] == [(46, "easy_reference"), (74, "checkpoint")]
    engine.dispose()


def test_the_page_and_the_api_agree_on_the_numbers(engine: Engine, made: Made) -> None:
    job_id = made.jobs["running"]
    history = look(engine, HistoryCache(), job_id)
    with read(engine) as connection:
        stats = job_stats(connection, job_id)
    assert (history.total.candidates, history.total.selected) == (stats.loaded, stats.trained)
    assert source_stats(history.per_source, None).keys() == stats.sources.keys()
    assert max(value for value in history.staleness if not math.isnan(value)) == stats.max_staleness


def test_jobs_without_a_batch_have_an_empty_history(engine: Engine, made: Made) -> None:
    history = look(engine, HistoryCache(), made.jobs["queued"])
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
