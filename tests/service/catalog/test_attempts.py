"""What an attempt reads and records: bundle, schedule, cache, numerics, pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from superbatch_server.schemas.attempts import CheckpointRef, Numerics, PoolReport
from superbatch_server.schemas.errors import Conflict, LeaseLost, NumericsChanged
from superbatch_server.schemas.jobs import RefreshSpec
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.service.catalog import attempts
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.settings import Settings
from tests.service.catalog.builders import (
    DATASET_ID,
    FINGERPRINT,
    cache_entry,
    claim_it,
    event_kinds,
    expire,
    job,
    record_rows,
    schedule_row,
    segment_commit,
    set_checkpoint,
    sha,
    submit,
)

RUNTIME = Settings(data_dir=Path("/tmp/none")).runtime()


def publish(engine: Engine, attempt: Attempt, seq: int) -> None:
    """Commit one batch whose row is recorded."""
    with write(engine) as connection:
        commit_segment(connection, attempt, segment_commit(job(engine, attempt.job_id), seq))


def test_the_bundle_is_everything_a_driver_starts_from(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    record_rows(engine, attempt, 0, 3)
    publish(engine, attempt, 0)
    with read(engine) as connection:
        bundle = attempts.bundle(connection, attempt, runtime=RUNTIME)
    assert (bundle.job_id, bundle.token, bundle.next_seq, bundle.next_walk.block) == (job_id, 1, 1, 1)
    assert (bundle.dataset_id, bundle.dataset_fingerprint, bundle.dataset_rows) == (DATASET_ID, FINGERPRINT, 100)
    assert [(shard.key, shard.start_index) for shard in bundle.shards] == [
        ("pool-000000.tar", 0),
        ("pool-000001.tar", 50),
    ]
    assert (bundle.reference, bundle.learner, bundle.numerics, bundle.eligible_digest) == (None, None, None, None)
    assert [row.seq for row in bundle.schedule] == [1, 2]
    names = [file.key.rpartition("/log/")[2] for file in bundle.log_files]
    assert names == ["shards.json", "head.json", "000000000000.json"]
    assert bundle.runtime == RUNTIME


def test_a_schedule_row_is_recorded_once(engine: Engine) -> None:
    submit(engine)
    attempt = claim_it(engine)
    with write(engine) as connection:
        assert attempts.record_schedule(connection, attempt, schedule_row(0, f=0.5)).f == 0.5
        assert attempts.record_schedule(connection, attempt, schedule_row(0, f=0.8)).f == 0.5
        assert attempts.record_schedule(connection, attempt, schedule_row(0, f=0.8, row_attempt=1)).f == 0.8
    with read(engine) as connection:
        [row] = attempts.bundle(connection, attempt, runtime=RUNTIME).schedule
    assert (row.row_attempt, row.f) == (1, 0.8)


def test_a_replaying_job_gets_the_published_rows_and_their_checkpoints(engine: Engine) -> None:
    first = submit(engine)
    attempt = claim_it(engine)
    checkpoint_id = set_checkpoint(engine, first, 3, CheckpointState.SUPERSEDED)
    set_checkpoint(engine, first, 4, CheckpointState.ACTIVE)
    used = CheckpointRef(id=checkpoint_id, sha256=sha(checkpoint_id), trained_seq=3, generation=1)
    record_rows(engine, attempt, 0)
    with write(engine) as connection:
        attempts.record_schedule(connection, attempt, schedule_row(1, rule="checkpoint", checkpoint=used))
        attempts.record_schedule(connection, attempt, schedule_row(2))
    publish(engine, attempt, 0)
    publish(engine, attempt, 1)
    submit(engine, refresh=RefreshSpec(replay=first))
    replaying = claim_it(engine)
    with read(engine) as connection:
        bundle = attempts.bundle(connection, replaying, runtime=RUNTIME)
    assert [row.seq for row in bundle.replay] == [0, 1], "row 2 was never published, it may have been made anew"
    assert [candidate.id for candidate in bundle.scheduled_checkpoints] == [checkpoint_id]
    assert bundle.schedule == []


def test_a_restarted_job_gets_the_checkpoint_that_its_own_recorded_row_names(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    superseded = set_checkpoint(engine, job_id, 3, CheckpointState.SUPERSEDED)
    set_checkpoint(engine, job_id, 4, CheckpointState.ACTIVE)
    used = CheckpointRef(id=superseded, sha256=sha(superseded), trained_seq=3, generation=1)
    with write(engine) as connection:
        attempts.record_schedule(connection, attempt, schedule_row(0, rule="checkpoint", checkpoint=used))
    with read(engine) as connection:
        bundle = attempts.bundle(connection, attempt, runtime=RUNTIME)
    assert [candidate.id for candidate in bundle.scheduled_checkpoints] == [superseded]


def test_the_first_commit_of_a_cache_key_wins(engine: Engine) -> None:
    submit(engine)
    submit(engine)
    first, second = claim_it(engine), claim_it(engine)
    winner = cache_entry("shard", quarantined={"bad_picture": 2})
    loser = cache_entry("shard", object_key="cache/loser.parquet", sha256=sha("loser"))
    with write(engine) as connection:
        assert attempts.commit_cached(connection, first, winner) == winner
        assert attempts.commit_cached(connection, second, loser) == winner
        assert attempts.find_cached(connection, second, [loser.cache_key, sha("none")]).entries == [winner]


def test_many_keys_are_looked_up_at_once(engine: Engine) -> None:
    submit(engine)
    attempt = claim_it(engine)
    with write(engine) as connection:
        for number in range(3):
            attempts.commit_cached(connection, attempt, cache_entry(f"shard {number}"))
    keys = [sha(f"shard {number}") for number in range(2000)]
    with write(engine) as connection:
        assert len(attempts.find_cached(connection, attempt, keys).entries) == 3


def test_every_attempt_runs_under_one_numerics_profile(engine: Engine) -> None:
    job_id = submit(engine)
    first = claim_it(engine)
    with write(engine) as connection:
        attempts.record_numerics(connection, first, Numerics(profile={"torch": "2.13"}, digest=sha("a")))
    expire(engine, job_id)
    later = claim_it(engine)
    with write(engine) as connection:
        attempts.record_numerics(connection, later, Numerics(profile={"torch": "2.13"}, digest=sha("a")))
    other = Numerics(profile={"torch": "2.15"}, digest=sha("b"))
    with pytest.raises(NumericsChanged, match=r"2\.15.*began under.*2\.13"), write(engine) as connection:
        attempts.record_numerics(connection, later, other)


def test_the_pool_is_reported_once_and_never_changes(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    report = PoolReport(eligible_digest=sha("set"), rows=100, eligible=97, per_source={}, quarantined={"empty": 3})
    for _ in range(2):
        with write(engine) as connection:
            attempts.report_pool(connection, attempt, report)
    assert job(engine, job_id)["eligible_digest"] == sha("set")
    assert event_kinds(engine, job_id).count("indexed") == 1
    with pytest.raises(Conflict, match="must not change"), write(engine) as connection:
        attempts.report_pool(connection, attempt, report.model_copy(update={"eligible_digest": sha("other")}))


def test_an_attempt_that_lost_its_lease_records_nothing(engine: Engine) -> None:
    job_id = submit(engine)
    old = claim_it(engine)
    expire(engine, job_id)
    claim_it(engine)
    report = PoolReport(eligible_digest=sha("set"), rows=1, eligible=1, per_source={}, quarantined={})
    for call in (
        lambda c: attempts.bundle(c, old, runtime=RUNTIME),
        lambda c: attempts.record_schedule(c, old, schedule_row(0)),
        lambda c: attempts.find_cached(c, old, []),
        lambda c: attempts.commit_cached(c, old, cache_entry("shard")),
        lambda c: attempts.record_numerics(c, old, Numerics(profile={}, digest=sha("a"))),
        lambda c: attempts.report_pool(c, old, report),
    ):
        with pytest.raises(LeaseLost), write(engine) as connection:
            call(connection)
