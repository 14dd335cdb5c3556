"""The parts of a job's page that are made from several sources: timeline, stages, shards, findings of the charts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, insert

from superbatch_server.schemas.jobs import CurateSpec, Event
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import job_row
from superbatch_server.service.catalog.stats import job_stats
from superbatch_server.service.catalog.tables import cache
from superbatch_server.service.dashboard.attempts import age, duration
from superbatch_server.service.dashboard.charts import charts
from superbatch_server.service.dashboard.history import History, HistoryCache
from superbatch_server.service.dashboard.plot import MAX_ROWS, Chart
from superbatch_server.service.dashboard.shard_progress import MAX_CELLS, _progress, read_shard_progress
from superbatch_server.service.dashboard.stages import read_stages
from superbatch_server.service.dashboard.timeline import MAX_KINDS, WIDTH, timeline
from superbatch_server.storage.index_spec import IndexSpec, embedding_cache_key, index_cache_key
from tests.service.dashboard.conftest import make_app, sign_in
from tests.service.dashboard.seed import Made, digest, set_job


def event(number: int, second: int, kind: str) -> Event:
    return Event(id=number, at=f"2026-01-01T00:00:{second:02}.000Z", kind=kind, message="m", fields={})


def test_the_timeline_has_a_lane_for_each_kind_in_order_of_time() -> None:
    made = timeline(
        [event(4, 40, "failed"), event(3, 20, "indexed"), event(2, 10, "indexed"), event(1, 0, "submitted")]
    )
    assert made is not None
    assert made.finding == "4 events in 40 s, 1 of them a failure; the newest: failed"
    assert [(lane.kind, lane.count, lane.marks) for lane in made.lanes] == [
        ("submitted", 1, (0.0,)),
        ("indexed", 2, (WIDTH / 4, WIDTH / 2)),
        ("failed", 1, (WIDTH,)),
    ]
    assert [lane.is_bad for lane in made.lanes] == [False, False, True]
    assert timeline([event(1, 0, "submitted")]) is None


def test_many_kinds_of_events_keep_the_timeline_short() -> None:
    made = timeline([event(i, i % 60, f"kind_{i}") for i in range(200)])
    assert made is not None
    assert len(made.lanes) == MAX_KINDS


def look(engine: Engine, job_id: str) -> tuple[History, list[Chart]]:
    with read(engine) as connection:
        row = job_row(connection, job_id)
        spec = CurateSpec.model_validate_json(row["spec"])
        history = HistoryCache(read_s=60.0).read(connection, row, spec)
        return history, charts(history, spec, job_stats(connection, job_id))


def test_every_chart_says_its_finding_and_has_a_short_table(engine: Engine, made: Made) -> None:
    _, drawn = look(engine, made.jobs["running"])
    assert {chart.id: chart.finding for chart in drawn} == {
        "chart-filter": "Batches keep 20.0% of their candidates",
        "chart-lift": "Source emoji is kept 1.41 times its share of the pool, interface-b 0.62 times",
        "chart-score": "Chosen rows have a mean learnability of 0.528, their super-batch 0.00966",
        "chart-staleness": "The newest batch was scored 40 batches late, the oldest score was 45 late; 60 are allowed",
        "chart-generation": "Generation 6 scored the newest batch; one lasted 38 batches on average",
    }
    for chart in drawn:
        assert 1 < len(chart.rows) <= MAX_ROWS
        assert all(len(row) == len(chart.columns) for row in chart.rows)
        assert chart.rows[-1][0].endswith("262")
    lift = next(chart for chart in drawn if chart.id == "chart-lift")
    assert lift.columns == ("Batches", "emoji", "flags", "interface-a", "interface-b")


def test_stages_say_which_one_takes_longest(engine: Engine, made: Made) -> None:
    history, _ = look(engine, made.jobs["running"])
    with read(engine) as connection:
        stats = job_stats(connection, made.jobs["running"])
    without_pass = read_stages(history, stats)
    assert without_pass is not None
    assert [stage.name for stage in without_pass.rows] == ["Score", "Select", "Write lists"]
    assert without_pass.finding == "Score takes 85% of the measured time"
    assert "read no shard" in without_pass.note
    seconds = {"pass_read_s": 30.0, "pass_decode_s": 60.0, "pass_encode_s": 900.0, "pass_write_s": 10.0}
    with_pass = read_stages(history, stats.model_copy(update={"counters": {"rows_read": 9000, **seconds}}))
    assert with_pass is not None
    assert [(stage.name, stage.rows_per_s) for stage in with_pass.rows[:4]] == [
        ("Read", "300"), ("Decode", "150"), ("Encode", "10"), ("Write index", "900"),
    ]  # fmt: skip
    assert with_pass.finding.startswith("Encode takes 8")
    assert read_stages(History(), stats.model_copy(update={"counters": {}})) is None


def cached(engine: Engine, cache_key: str, kind: str) -> None:
    with write(engine) as connection:
        values = {"cache_key": cache_key, "kind": kind, "object_key": cache_key, "bytes": 1, "sha256": cache_key}
        connection.execute(insert(cache).values(**values, rows=1, quarantined="{}", created_ms=now_ms(connection)))


def test_shards_are_told_apart_by_what_the_cache_has(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    job_id, spec = own.jobs["indexing"], IndexSpec()
    planned = {"encoder": digest("encoder"), "numerics": digest("numerics")}
    with write(own_engine) as connection:
        add_event(connection, job_id, "pass_planned", "0 of 4 shards are cached", planned)
    for shard in range(3):
        cached(own_engine, index_cache_key(digest(f"pool-{shard:02}.tar"), spec), "index")
    cached(own_engine, embedding_cache_key(digest("pool-01.tar"), spec, **planned), "embedding")
    with read(own_engine) as connection:
        found = read_shard_progress(connection, job_row(connection, job_id))
    assert found is not None
    assert found.finding == "1 of 4 shards are indexed and embedded"
    assert [(cell.indexed, cell.embedded) for cell in found.cells] == [(1, 0), (1, 1), (1, 0), (0, 0)]
    assert [cell.level for cell in found.cells] == [0, 4, 0, 0]
    client = sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())
    html = client.get(f"/jobs/{job_id}").text
    assert "shard 2: 1 of 1 indexed, 0 embedded" in html
    assert "1 of 4 shards are indexed and embedded" in html
    with write(own_engine) as connection:
        set_job(connection, job_id, state="CANCELLED")
    assert 'id="shards"' not in client.get(f"/jobs/{job_id}").text, "nothing moves any more"


def test_many_shards_share_a_square() -> None:
    num_shards = 10 * MAX_CELLS + 1
    done = [i % 11 < 5 for i in range(num_shards)]
    made = _progress([{}] * num_shards, done, done, wants_embedding=False)  # type: ignore[list-item]
    assert len(made.cells) <= MAX_CELLS
    assert sum(cell.indexed for cell in made.cells) == sum(done)
    assert [cell.stop for cell in made.cells[:-1]] == [cell.start for cell in made.cells[1:]]
    assert made.note == "One square is 11 shards."


def test_the_counters_of_an_attempt_stand_with_the_numbers(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    with write(own_engine) as connection:
        set_job(connection, own.jobs["running"], counters=json.dumps({"rows_read": 3520, "pass_encode_s": 12.5}))
    client = sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())
    html = client.get(f"/jobs/{own.jobs['running']}").text
    assert "data-stat=\"counters.pass_encode_s\" value='12.5'" in html
    assert ">Encode</th>" in html


@pytest.mark.parametrize(
    ("seconds", "short", "coarse"),
    [(0.44, "0.4 s", "0 s"), (42, "42 s", "42 s"), (185, "3 min 05 s", "3 min"), (7620, "2 h 07 min", "2 h")],
)
def test_durations_and_ages_are_short(seconds: float, short: str, coarse: str) -> None:
    assert (duration(seconds), age(seconds)) == (short, coarse)
    assert age(200_000) == "2 d"
