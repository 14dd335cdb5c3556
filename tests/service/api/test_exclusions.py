"""Rows are excluded, published batches that hold one are withdrawn, and skipped batches are withdrawn whole."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import update

from superbatch.formats.batch_list import write_batch_list
from superbatch.formats.digests import exclusions_digest
from superbatch.formats.errors import DigestMismatch
from superbatch.formats.manifest import Manifest
from superbatch_server.schemas.attempts import SegmentCommit
from superbatch_server.service.catalog import exclusions, tables
from superbatch_server.service.catalog.attempts import record_schedule
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.revoked import SHOWN_REASON
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.upkeep.withdrawal import SEGMENTS_AT_ONCE, search_pending
from tests.service.api.world import Json, World, answered, problem
from tests.service.catalog.builders import claim_it, job, schedule_row, segment_commit
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_batch, uid_at


@pytest.fixture
def log_of_six(world: World) -> str:
    """A job with a pushed learner that has published six batches in three lists."""
    job_id = world.submit(world.pushed_spec())
    publish(world, job_id, 3, batches=2)
    return job_id


def publish(world: World, job_id: str, num_segments: int, *, batches: int = 1, under: str | None = None) -> None:
    """Publish real lists; `under` is the digest of the exclusions that their rows name."""
    world.attempt = world.attempt or claim_it(world.engine)
    for _ in range(num_segments):
        row = job(world.engine, job_id)
        seqs = range(row["next_seq"], row["next_seq"] + batches)
        content = write_batch_list([a_batch(seq) for seq in seqs], fingerprint=FINGERPRINT)
        digest = hashlib.sha256(content).hexdigest()
        commit: SegmentCommit = segment_commit(row, seqs[0], batches, bytes=len(content), sha256=digest)
        world.store.put_new(commit.list_key, content)
        with write(world.engine) as connection:
            for seq in seqs:
                record_schedule(connection, world.attempt, schedule_row(seq, exclusions_digest=under))
            commit_segment(connection, world.attempt, commit)


def exclude(world: World, job_id: str, *uids: bytes, **changes: str) -> Json:
    return world.post(f"/v1/jobs/{job_id}/exclusions", {"uids": [uid.hex() for uid in uids], **changes})


def search(world: World) -> None:
    """Let the supervisor's part look through the published lists."""
    while search_pending(world.engine, world.store):
        pass


def revoked(world: World, job_id: str, after: int = 0) -> list[tuple[int, int, str]]:
    manifest = Manifest.from_json(world.client.get(f"/v1/jobs/{job_id}/manifest?after={after}").content)
    return [(each.first_seq, each.num_batches, each.reason) for each in manifest.revoked]


def test_published_batches_that_hold_an_excluded_row_are_revoked_and_no_others(world: World, log_of_six: str) -> None:
    answer = exclude(world, log_of_six, uid_at(1, 3), uid_at(4, 0), uid_at(99, 0), reason="withdrawn by its owner")
    assert (answer["num_uids"], answer["is_searching"], answer["num_revoked"]) == (3, True, 0)
    search(world)
    said = "holds an excluded row: withdrawn by its owner"
    assert revoked(world, log_of_six) == [(1, 1, said), (4, 1, said)]
    answer = world.get(f"/v1/jobs/{log_of_six}/exclusions")
    assert (answer["is_searching"], answer["num_revoked"]) == (False, 2)
    stats = world.get(f"/v1/jobs/{log_of_six}/stats")
    assert (stats["excluded"], stats["num_revoked"], stats["exclusions_digest"]) == (3, 2, answer["digest"])


def test_the_newest_batches_are_searched_first_and_the_search_lasts_until_the_oldest(world: World) -> None:
    job_id = world.submit(world.spec(num_batches=100))
    publish(world, job_id, SEGMENTS_AT_ONCE + 1)
    exclude(world, job_id, uid_at(0, 0), uid_at(SEGMENTS_AT_ONCE, 0))
    assert search_pending(world.engine, world.store)
    assert [seq for seq, *_ in revoked(world, job_id)] == [SEGMENTS_AT_ONCE]
    assert world.get(f"/v1/jobs/{job_id}/exclusions")["is_searching"]
    search(world)
    assert [seq for seq, *_ in revoked(world, job_id)] == [0, SEGMENTS_AT_ONCE]
    assert not search_pending(world.engine, world.store)


def test_neighbouring_batches_with_one_reason_are_one_range(world: World, log_of_six: str) -> None:
    exclude(world, log_of_six, *(uid_at(seq, 0) for seq in (1, 2, 3)), reason="x" * 300)
    search(world)
    [(first_seq, num_batches, reason)] = revoked(world, log_of_six)
    assert (first_seq, num_batches, len(reason)) == (1, 3, SHOWN_REASON)


def test_the_digest_is_of_the_whole_set_and_naming_rows_again_changes_nothing(world: World, log_of_six: str) -> None:
    first = exclude(world, log_of_six, uid_at(7, 1))
    second = exclude(world, log_of_six, uid_at(8, 2), uid_at(7, 1), reason="other")
    again = exclude(world, log_of_six, uid_at(8, 2))
    assert first["digest"] == exclusions_digest([uid_at(7, 1)]).hex()
    assert second["digest"] == again["digest"] == exclusions_digest([uid_at(7, 1), uid_at(8, 2)]).hex()
    shown = [(each["version"], each["num_uids"], each["reason"]) for each in again["versions"]]
    assert shown == [
        (2, 2, "other"),
        (1, 1, "excluded"),
    ]


def test_a_driver_gets_the_set_under_its_digest_with_its_own_secret_alone(world: World, log_of_six: str) -> None:
    first = exclude(world, log_of_six, uid_at(7, 1))["digest"]
    second = exclude(world, log_of_six, uid_at(8, 2))["digest"]
    assert world.attempt is not None
    path = f"/internal/v1/jobs/{log_of_six}/attempts/{world.attempt.token}"
    bearer = {"Authorization": f"Bearer {world.attempt.secret}"}
    assert world.client.get(f"{path}/refresh", headers=bearer).json()["exclusions_digest"] == second
    sets = {digest: world.client.get(f"{path}/exclusions/{digest}", headers=bearer) for digest in (first, second)}
    assert sets[first].json()["uids"] == uid_at(7, 1).hex()
    assert sets[second].json()["uids"] == b"".join(sorted([uid_at(7, 1), uid_at(8, 2)])).hex()
    problem(world.client.get(f"{path}/exclusions/{'0' * 64}", headers=bearer), "not_found")
    problem(world.client.get(f"{path}/exclusions/{first}", headers={"Authorization": "Bearer x"}), "lease_lost")


def test_a_list_decided_before_and_committed_after_a_request_is_searched_and_a_later_one_is_not(
    world: World, log_of_six: str
) -> None:
    digest = exclude(world, log_of_six, uid_at(6, 2), uid_at(7, 2))["digest"]
    search(world)
    assert revoked(world, log_of_six) == []
    publish(world, log_of_six, 1)  # batch 6
    assert world.get(f"/v1/jobs/{log_of_six}/exclusions")["is_searching"]
    search(world)
    assert [seq for seq, *_ in revoked(world, log_of_six)] == [6]
    publish(world, log_of_six, 1, under=digest)  # a driver that knew would not have chosen the row: not looked at
    assert not world.get(f"/v1/jobs/{log_of_six}/exclusions")["is_searching"]
    exclude(world, log_of_six, uid_at(7, 3))
    search(world)
    assert [(seq, count) for seq, count, _ in revoked(world, log_of_six)] == [(6, 2)]


def test_a_damaged_list_is_told_and_does_not_hold_up_another_job(world: World, log_of_six: str) -> None:
    world.attempt = None
    other = world.submit(world.spec())
    publish(world, other, 1)
    path = next(world.settings.data_dir.rglob(f"*{log_of_six}*/**/lists/*.parquet"))
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    exclude(world, log_of_six, uid_at(0, 0))
    exclude(world, other, uid_at(0, 0))
    with pytest.raises(ExceptionGroup) as raised:
        search_pending(world.engine, world.store)
    assert raised.group_contains(DigestMismatch)
    assert [seq for seq, *_ in revoked(world, other)] == [0]
    assert world.get(f"/v1/jobs/{log_of_six}/exclusions")["is_searching"], "tried again later"


def test_the_etag_changes_with_a_revocation(world: World, log_of_six: str) -> None:
    path = f"/v1/jobs/{log_of_six}/manifest?after=6"
    etag = world.client.get(path).headers["ETag"]
    assert world.client.get(path, headers={"If-None-Match": etag}).status_code == 304
    exclude(world, log_of_six, uid_at(5, 0))
    search(world)
    assert world.client.get(path, headers={"If-None-Match": etag}).status_code == 200
    assert [seq for seq, *_ in revoked(world, log_of_six, after=6)] == [5], "a reader that reads ahead still holds it"


def test_a_poll_that_waits_answers_with_what_was_revoked_meanwhile(world: World, log_of_six: str) -> None:
    path = f"/v1/jobs/{log_of_six}/manifest?after=6"
    etag = world.client.get(path).headers["ETag"]
    report = world.report(log_of_six, 6, skipped=[{"seq": 5, "reason": "x"}])
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(world.client.get, f"{path}&wait=60", headers={"If-None-Match": etag})
        answered(world.put_consumer(log_of_six, report), 200)
        found = answer.result(timeout=50)
    assert [each.first_seq for each in Manifest.from_json(found.content).revoked] == [5]


def test_a_page_with_many_revoked_batches_stays_below_64_kib_and_lists_each_once(world: World) -> None:
    job_id = world.submit(world.pushed_spec(num_batches=1000))
    world.publish(job_id, 120)
    skipped = [{"seq": seq, "reason": f"{seq} " * 80} for seq in range(120)]
    report = world.report(job_id, 120, skipped=skipped)
    answered(world.put_consumer(job_id, report), 200)
    link, first_seqs, seqs, pages = f"/v1/jobs/{job_id}/manifest?after=0", [], set[int](), 0
    while link:
        response = world.client.get(link)
        assert len(response.content) < 64 * 1024
        manifest = Manifest.from_json(response.content)
        first_seqs += [segment.first_seq for segment in manifest.segments]
        named = {each.first_seq for each in manifest.revoked}
        assert {segment.first_seq for segment in manifest.segments} <= named
        seqs |= named
        pages += 1
        link = str(response.url.join(manifest.next_link)) if manifest.next_link else ""
    assert pages > 1
    behind = [first_seq for first_seq, *_ in revoked(world, job_id, after=120)]
    assert behind == list(range(120 - len(behind), 120)), "those nearest to `after`"
    assert 30 < len(behind) < 60, "as many as 12,000 bytes hold"
    assert first_seqs == sorted(seqs) == list(range(120))


def test_a_learner_that_skips_a_batch_revokes_it_for_all_and_may_repeat_itself(world: World, log_of_six: str) -> None:
    report = world.report(log_of_six, 4, skipped=[{"seq": 2, "reason": "unreadable: 000017.tar"}])
    answered(world.put_consumer(log_of_six, report), 200)
    answered(world.put_consumer(log_of_six, report), 200)
    assert revoked(world, log_of_six) == [(2, 1, "skipped by trainer: unreadable: 000017.tar")]
    kinds = [event["kind"] for event in world.get(f"/v1/jobs/{log_of_six}/events")["events"]]
    assert kinds.count("batches_skipped") == 1
    answered(world.put_consumer(log_of_six, world.report(log_of_six, 1, rewind=True)), 200)
    assert len(revoked(world, log_of_six)) == 1, "a rewound learner finds it withdrawn"


def test_a_reader_skips_for_itself_alone(world: World, log_of_six: str) -> None:
    reader = world.report(log_of_six, 4, role="reader", skipped=[{"seq": 1, "reason": "x"}])
    assert answered(world.put_consumer(log_of_six, reader), 200)["report"]["skipped"] == [{"seq": 1, "reason": "x"}]
    assert revoked(world, log_of_six) == []


def test_a_skip_beyond_the_log_is_refused_and_nothing_is_kept(world: World, log_of_six: str) -> None:
    beyond = world.report(log_of_six, 4, skipped=[{"seq": 1, "reason": "x"}, {"seq": 6, "reason": "x"}])
    problem(world.put_consumer(log_of_six, beyond), "seq_beyond_log", "skipped seq 6", "next_seq = 6")
    assert revoked(world, log_of_six) == []
    assert world.get(f"/v1/jobs/{log_of_six}/consumers")["consumers"] == []


def test_a_batch_is_revoked_once_and_keeps_its_first_reason(world: World, log_of_six: str) -> None:
    report = world.report(log_of_six, 4, skipped=[{"seq": 2, "reason": "unreadable"}])
    answered(world.put_consumer(log_of_six, report), 200)
    exclude(world, log_of_six, uid_at(2, 0), uid_at(3, 0))
    search(world)
    assert [(seq, reason) for seq, _, reason in revoked(world, log_of_six)] == [
        (2, "skipped by trainer: unreadable"),
        (3, "holds an excluded row: excluded"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"uids": []},
        {"uids": ["ab" * 15]},
        {"uids": ["AB" * 16]},
        {"uids": [uid_at(0, 0).hex()], "reason": " "},
        {"uids": [uid_at(0, 0).hex()], "rows": 3},
    ],
)
def test_a_request_of_another_form_is_refused(world: World, log_of_six: str, body: Json) -> None:
    problem(world.client.post(f"/v1/jobs/{log_of_six}/exclusions", json=body), "validation")
    assert world.get(f"/v1/jobs/{log_of_six}/exclusions")["num_uids"] == 0


def test_more_rows_than_a_job_can_keep_in_mind_are_refused(world: World, log_of_six: str) -> None:
    numbers = np.arange(2 * exclusions.MAX_EXCLUDED, dtype="<u8").tobytes()  # so many uids of 16 bytes
    exclude(world, log_of_six, uid_at(0, 0))
    with write(world.engine) as connection:
        connection.execute(update(tables.exclusions).values(uids=numbers, num_uids=exclusions.MAX_EXCLUDED))
    body = {"uids": [uid_at(0, 2).hex()]}
    answer = world.client.post(f"/v1/jobs/{log_of_six}/exclusions", json=body)
    problem(answer, "too_many_excluded", "at most 1000000", "1 more")


def test_a_job_that_replays_another_excludes_nothing_of_its_own(world: World) -> None:
    replayed = world.submit()
    world.publish(replayed, 3)
    replaying = world.submit(world.spec(num_batches=3, refresh={"replay": replayed}))
    body = {"uids": [uid_at(0, 0).hex()]}
    problem(world.client.post(f"/v1/jobs/{replaying}/exclusions", json=body), "wrong_state", replayed)


def test_a_set_of_excluded_rows_is_found_from_whichever_job_it_comes(world: World, log_of_six: str) -> None:
    digest = exclude(world, log_of_six, uid_at(7, 1))["digest"]
    with read(world.engine) as connection:
        assert exclusions.exclusion_set(connection, digest).uids == uid_at(7, 1).hex()
        assert exclusions.version_of(connection, log_of_six, digest) == 1
        assert exclusions.version_of(connection, "job_0000000000000000", digest) == 0


def test_the_exclusions_of_an_unknown_job_are_not_found(world: World) -> None:
    problem(world.client.get("/v1/jobs/job_0000000000000000/exclusions"), "not_found")
