"""The manifest: pages, long poll, ETag, and the three ways in which a cursor can be wrong."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import delete

from superbatch.formats.manifest import Manifest, Variant
from superbatch_server.schemas.attempts import CheckpointRef, Numerics, PoolReport
from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.attempts import record_numerics, report_pool
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.queue import end_job
from superbatch_server.service.catalog.tables import segments
from tests.service.api.world import World, problem, sha256


def poll(world: World, job: str, **query: Any) -> Manifest:
    response = world.client.get(f"/v1/jobs/{job}/manifest", params=query)
    assert response.status_code == 200, response.text
    return Manifest.from_json(response.content)


def test_a_new_log_is_empty_and_open(world: World) -> None:
    job = world.submit()
    manifest = poll(world, job)
    assert (manifest.job, manifest.oldest_seq, manifest.next_seq, manifest.end) == (job, 0, 0, None)
    assert manifest.segments == ()
    assert manifest.policy.method == "uniform"
    assert manifest.policy.criterion is None
    assert (manifest.policy.b, manifest.policy.B, manifest.policy.f) == (4, 8, 0.5)
    assert (manifest.policy.loss, manifest.policy.precision, manifest.policy.first_round) == ("sigmoid", "native", None)
    assert (manifest.reference_digest, manifest.eligible_digest, manifest.numerics_profile) == (None, None, None)


def test_the_policy_says_what_loss_and_limits_the_selection_has(world: World) -> None:
    limits = {"loss": "softmax", "probe_size": 3, "repetition_cap": 2, "max_cosine": 0.9, "precision": "bf16"}
    policy = poll(world, world.submit(world.spec(selection=limits, reference=world.model()))).policy
    assert {name: getattr(policy, name) for name in limits} == limits
    assert policy.first_round == "probe"
    assert policy.criterion is None


def test_the_policy_says_what_the_variants_are(world: World) -> None:
    variants = [
        {"resolution": 224, "patch": 16, "flops_fraction": 1.0, "share": 0.5},
        {"resolution": 112, "flops_fraction": 0.25, "share": 0.5},
    ]
    policy = poll(world, world.submit(world.spec(selection={"variants": variants}))).policy
    assert policy.variants == (Variant(224, 16, 1.0), Variant(112, None, 0.25))
    assert poll(world, world.submit()).policy.variants == ()


def test_published_segments_are_listed_from_a_cursor_on(world: World) -> None:
    job = world.submit()
    contents = world.publish(job, 3, batches=2)
    manifest = poll(world, job)
    assert [(segment.first_seq, segment.num_batches) for segment in manifest.segments] == [(0, 2), (2, 2), (4, 2)]
    assert [segment.sha256 for segment in manifest.segments] == [sha256(content) for content in contents]
    assert manifest.segments[-1].log_digest_end == world.log_digest(job, 6)
    assert manifest.next_seq == 6
    # A cursor inside a segment gets that segment: its batches are skipped by the reader.
    assert [segment.first_seq for segment in poll(world, job, after=3).segments] == [2, 4]
    assert poll(world, job, after=6).segments == ()


def test_links_lead_to_the_list_and_to_the_shard_table(world: World) -> None:
    job = world.submit()
    (content,) = world.publish(job)
    manifest = poll(world, job)
    base = world.client.base_url.join(f"/v1/jobs/{job}/manifest")
    assert world.client.get(base.join(manifest.segments[0].list_link)).content == content
    table = world.client.get(base.join(manifest.shard_table)).json()
    assert table["dataset_fingerprint"] == manifest.dataset_fingerprint


def test_a_checkpoint_that_scored_is_named(world: World) -> None:
    job = world.submit(world.pushed_spec())
    used = CheckpointRef(id="checkpoint_0000000000000001", sha256=sha256(b"w"), trained_seq=3, generation=2)
    world.publish(job, checkpoint=used)
    (segment,) = poll(world, job).segments
    assert segment.scored_with is not None
    assert (segment.scored_with.checkpoint, segment.scored_with.trained_seq) == (used.id, 3)
    assert (segment.generation, segment.rule) == (2, None)
    assert poll(world, job).reference_digest is not None


def test_what_the_first_attempt_records_is_in_the_head(world: World) -> None:
    job = world.submit()
    world.publish(job)
    assert world.attempt is not None
    pool = PoolReport(eligible_digest=sha256(b"e"), rows=50, eligible=50, per_source={}, quarantined={})
    with write(world.engine) as connection:
        record_numerics(
            connection, world.attempt, Numerics(profile={"torch": "2.13.0", "threads": 1}, digest=sha256(b"n"))
        )
        report_pool(connection, world.attempt, pool)
    manifest = poll(world, job)
    assert manifest.eligible_digest == sha256(b"e")
    assert manifest.numerics_profile is not None
    assert manifest.numerics_profile.to_json() == {"torch": "2.13.0", "threads": 1, "digest": sha256(b"n")}


def test_a_long_log_comes_in_pages_below_64_kib(world: World) -> None:
    job = world.submit(world.spec(num_batches=1000))
    world.publish(job, 200)
    link, first_seqs, pages = f"/v1/jobs/{job}/manifest?after=0", [], 0
    while link:
        response = world.client.get(link)
        assert len(response.content) < 64 * 1024
        manifest = Manifest.from_json(response.content)
        first_seqs += [segment.first_seq for segment in manifest.segments]
        link = str(response.url.join(manifest.next_link)) if manifest.next_link else ""
        pages += 1
    assert first_seqs == list(range(200))
    assert pages > 1


def test_one_segment_is_sent_however_long_it_is(world: World) -> None:
    job = world.submit(world.spec(num_batches=3200, lists={"batches_per_list": 1600}))
    world.publish(job, 2, batches=1600, f=0.123456789012345678, B=10**18)
    first = poll(world, job)
    assert len(first.segments) == 1
    assert len(poll(world, job, after=1600).segments) == 1
    assert first.next_link is not None


@pytest.mark.parametrize(
    ("state", "end"),
    [(JobState.SUCCEEDED, "complete"), (JobState.CANCELLED, "cancelled"), (JobState.FAILED, "failed")],
)
def test_the_end_is_told_at_once(world: World, state: JobState, end: str) -> None:
    job = world.submit()
    world.publish(job, 2)
    with write(world.engine) as connection:
        end_job(connection, job, state)
    began_s = time.monotonic()
    manifest = poll(world, job, after=2, wait=30)
    assert time.monotonic() - began_s < 10
    assert (manifest.end, manifest.final_seq, manifest.segments) == (end, 2, ())


def test_a_poll_with_nothing_new_waits_and_says_so(world: World) -> None:
    job = world.submit()
    began_s = time.monotonic()
    assert poll(world, job, wait=0.5).segments == ()
    assert 0.5 <= time.monotonic() - began_s < 5


def test_a_waiting_poll_hears_of_a_new_batch_at_once(world: World) -> None:
    job = world.submit()
    world.publish(job)
    heard: list[tuple[float, Manifest]] = []

    def wait_for_news() -> None:
        heard.append((time.monotonic(), poll(world, job, after=1, wait=30)))
        heard.append((time.monotonic(), heard[0][1]))

    waiting = threading.Thread(target=wait_for_news)
    waiting.start()
    time.sleep(0.5)
    world.publish(job)
    published_s = time.monotonic()
    waiting.join(timeout=20)
    assert [segment.first_seq for segment in heard[1][1].segments] == [1]
    assert heard[1][0] - published_s < 2


def test_many_waiting_polls_leave_room_for_other_requests(world: World) -> None:
    job = world.submit()
    waiting = [threading.Thread(target=poll, args=(world, job), kwargs={"wait": 1.5}) for _ in range(60)]
    for thread in waiting:
        thread.start()
    began_s = time.monotonic()
    world.get(f"/v1/jobs/{job}")
    assert time.monotonic() - began_s < 1.2
    for thread in waiting:
        thread.join()


def test_an_etag_that_still_holds_is_answered_with_304(world: World) -> None:
    job = world.submit()
    path = f"/v1/jobs/{job}/manifest"
    etag = world.client.get(path).headers["etag"]
    began_s = time.monotonic()
    unchanged = world.client.get(path, params={"wait": 0.3}, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert time.monotonic() - began_s >= 0.3
    world.publish(job)
    changed = world.client.get(path, params={"wait": 30}, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


def test_a_cursor_of_another_history_is_refused(world: World) -> None:
    job, other = world.submit(), world.submit()
    history = world.get(f"/v1/jobs/{other}")["history_id"]
    response = world.client.get(f"/v1/jobs/{job}/manifest", params={"history": history, "wait": 30})
    problem(response, "other_history", history, job)
    own = world.get(f"/v1/jobs/{job}")["history_id"]
    assert poll(world, job, history=own).history_id == own


def test_a_cursor_beyond_the_log_is_refused(world: World) -> None:
    job = world.submit()
    problem(world.client.get(f"/v1/jobs/{job}/manifest?after=1&wait=30"), "seq_beyond_log", "got 1, next_seq = 0")


def test_a_cursor_behind_retention_is_told_the_oldest_seq(world: World) -> None:
    job = world.submit()
    world.publish(job, 4)
    with write(world.engine) as connection:
        connection.execute(delete(segments).where(segments.c.first_seq < 2))
    body = problem(world.client.get(f"/v1/jobs/{job}/manifest?after=1"), "behind_retention", "got 1, oldest is 2")
    assert body["oldest_seq"] == 2
    manifest = poll(world, job, after=2)
    assert (manifest.oldest_seq, [segment.first_seq for segment in manifest.segments]) == (2, [2, 3])


@pytest.mark.parametrize("wait", ["-1", "x", "nan"])
def test_a_wait_that_is_no_time_is_refused(world: World, wait: str) -> None:
    problem(world.client.get(f"/v1/jobs/{world.submit()}/manifest?wait={wait}"), "validation", "query wait")
