"""The guarded commit of segments, the chained log digest, and the files that readers of a bucket poll."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from superbatch.formats.bucket import LogEnd, LogHead, LogSegment
from superbatch.formats.digests import log_digest_start, next_log_digest
from superbatch.formats.manifest import Manifest
from superbatch.formats.shards import ShardTable
from superbatch_server.schemas.attempts import CheckpointRef, Finish, SegmentCommit, SegmentCommitted
from superbatch_server.schemas.errors import InvalidRequest, LeaseLost, WrongSeq
from superbatch_server.service.catalog import lease, queue
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.manifest import manifest_page
from superbatch_server.service.catalog.segments import (
    commit_segment,
    mark_end_logged,
    newest_log_files,
    unlogged_ends,
)
from superbatch_server.service.catalog.tables import segments
from tests.service.catalog.builders import (
    FINGERPRINT,
    claim_it,
    expire,
    job,
    log_chain,
    record_rows,
    segment_commit,
    sha,
    submit,
)


def commit(engine: Engine, attempt: Attempt, body: SegmentCommit) -> SegmentCommitted:
    """Commit a segment in its own transaction."""
    with write(engine) as connection:
        return commit_segment(connection, attempt, body)


def publish(engine: Engine, attempt: Attempt, first_seq: int, num_batches: int = 1) -> SegmentCommitted:
    """Record the schedule and commit a segment."""
    record_rows(engine, attempt, first_seq, num_batches)
    return commit(engine, attempt, segment_commit(job(engine, attempt.job_id), first_seq, num_batches))


def test_commits_chain_the_log_digest_batch_by_batch(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    publish(engine, attempt, 0, 2)
    answer = publish(engine, attempt, 2, 1)
    digests = [log_digest_start(job_id, job(engine, job_id)["history_id"])]
    for seq in range(3):
        digests.append(next_log_digest(digests[-1], bytes.fromhex(sha(f"batch {seq}"))))
    assert log_chain(engine, job_id) == [digest.hex() for digest in digests]
    assert (answer.next_seq, answer.log_digest) == (3, digests[-1].hex())
    row = job(engine, job_id)
    assert (row["next_seq"], row["log_digest"]) == (3, digests[-1].hex())
    assert '"block":3' in row["next_walk"]


def test_the_same_commit_again_gets_the_same_answer_and_changes_nothing(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    first = publish(engine, attempt, 0)
    publish(engine, attempt, 1)
    before = job(engine, job_id)
    assert commit(engine, attempt, segment_commit(before, 0)) == first
    assert job(engine, job_id) == before


@pytest.mark.parametrize(("first_seq", "num_batches"), [(0, 1), (2, 1), (1, 6)])
def test_a_segment_that_does_not_continue_the_log_is_refused(engine: Engine, first_seq: int, num_batches: int) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    publish(engine, attempt, 0)
    record_rows(engine, attempt, first_seq, num_batches)
    other = segment_commit(job(engine, job_id), first_seq, num_batches, sha256=sha("other"))
    with pytest.raises(WrongSeq, match="must begin at the job's next_seq, 1, and end by 6"):
        commit(engine, attempt, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f": [0.5, 0.5]}, "one entry per batch"),
        ({"batch_digests": []}, "one entry per batch"),
        ({"list_key": "jobs/other/lists/x.parquet"}, "must lie where readers of the bucket look"),
    ],
)
def test_a_segment_of_another_form_is_refused(engine: Engine, changes: dict[str, Any], message: str) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    record_rows(engine, attempt, 0)
    with pytest.raises(InvalidRequest, match=message):
        commit(engine, attempt, segment_commit(job(engine, job_id), 0, **changes))


def test_a_batch_without_its_schedule_row_is_refused(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    record_rows(engine, attempt, 0)
    for body in (
        segment_commit(job(engine, job_id), 0, row_attempts=[1]),
        segment_commit(job(engine, job_id), 0, 2),
    ):
        with pytest.raises(WrongSeq, match="must have its schedule row"):
            commit(engine, attempt, body)


def test_an_attempt_that_lost_its_lease_publishes_nothing(engine: Engine) -> None:
    job_id = submit(engine)
    old = claim_it(engine)
    record_rows(engine, old, 0)
    body = segment_commit(job(engine, job_id), 0)
    expire(engine, job_id)
    claim_it(engine)
    before = job(engine, job_id)
    with pytest.raises(LeaseLost):
        commit(engine, old, body)
    assert job(engine, job_id) == before
    with read(engine) as connection:
        assert connection.execute(select(func.count()).select_from(segments)).scalar_one() == 0


def test_the_log_file_holds_the_segment_and_comes_back_byte_for_byte(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    publish(engine, attempt, 0)
    used = CheckpointRef(id="checkpoint_1", sha256=sha("w"), trained_seq=0, generation=1)
    record_rows(engine, attempt, 1)
    body = segment_commit(job(engine, job_id), 1, rule="checkpoint", checkpoint=used, generation=1)
    [file] = commit(engine, attempt, body).log_files
    history_id = job(engine, job_id)["history_id"]
    assert file.key == f"jobs/{job_id}/{history_id}/log/000000000001.json"
    log = LogSegment.parse(file.text)
    assert (log.job, log.history_id, log.dataset_fingerprint) == (job_id, history_id, FINGERPRINT)
    assert log.log_digest_start == log_chain(engine, job_id)[1]
    assert log.segment.list_link == f"lists/{body.list_name}"
    assert (log.segment.scored_with, log.segment.rule, log.segment.generation) is not None
    assert log.segment.scored_with is not None
    assert log.segment.scored_with.checkpoint == "checkpoint_1"
    with read(engine) as connection:
        assert newest_log_files(connection, job_id)[-1] == file


def test_the_head_and_the_shard_table_come_before_the_first_segment(engine: Engine) -> None:
    job_id = submit(engine)
    with read(engine) as connection:
        shards, head = newest_log_files(connection, job_id)
    found = LogHead.parse(head.text)
    assert head.key == f"jobs/{job_id}/{found.history_id}/log/head.json"
    assert shards.key == f"jobs/{job_id}/{found.history_id}/log/shards.json"
    assert (found.job, found.history_id) == (job_id, job(engine, job_id)["history_id"])
    assert found.dataset_fingerprint == ShardTable.from_json(shards.text).dataset_fingerprint == FINGERPRINT
    with read(engine) as connection:
        page = manifest_page(connection, job_id, history=None, after=0)
    assert found.policy == Manifest.from_json(page.text).policy


@pytest.mark.parametrize(("rule", "named"), [("easy_reference", "easy_reference"), ("fixed", None)])
def test_a_rule_is_named_where_it_stood_in_for_a_checkpoint(engine: Engine, rule: str, named: str | None) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    record_rows(engine, attempt, 0)
    [file] = commit(engine, attempt, segment_commit(job(engine, job_id), 0, rule=rule)).log_files
    assert LogSegment.parse(file.text).segment.rule == named


def test_the_newest_files_are_offered_and_the_end_only_once_it_is_final(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    for seq in range(6):
        publish(engine, attempt, seq)
    with read(engine) as connection:
        keys = [file.key[-17:] for file in newest_log_files(connection, job_id)]
    assert keys == [f"{seq:012d}.json" for seq in range(2, 6)]
    with write(engine) as connection:
        lease.finish(connection, attempt, Finish(outcome="SUCCEEDED"))
        end = LogEnd.parse(newest_log_files(connection, job_id)[-1].text)
        assert unlogged_ends(connection) == [job_id]
        mark_end_logged(connection, job_id)
        assert unlogged_ends(connection) == []
    assert (end.end, end.final_seq, end.log_digest) == ("complete", 6, log_chain(engine, job_id)[-1])


def test_a_cancelled_log_ends_and_a_failed_one_may_go_on(engine: Engine) -> None:
    cancelled, failed = submit(engine), submit(engine)
    with write(engine) as connection:
        queue.request_cancel(connection, cancelled)
        queue.update_job(connection, failed, state="FAILED")
        assert LogEnd.parse(newest_log_files(connection, cancelled)[-1].text).end == "cancelled"
        names = [file.key.rpartition("/")[2] for file in newest_log_files(connection, failed)]
        assert names == ["shards.json", "head.json"]
        assert unlogged_ends(connection) == [cancelled]
