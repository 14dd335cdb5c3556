"""BatchLog: the published batches, all of them, in order, from wherever it resumes; and a clear end when it cannot."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from superbatch.formats.batch_list import write_batch_list
from superbatch.formats.errors import (
    BehindRetention,
    CorruptFile,
    DigestMismatch,
    HistoryChanged,
    InvalidInput,
    LogEnded,
    LogStalled,
    RevokedBatch,
    ServiceError,
    ServiceUnreachable,
)
from superbatch.formats.manifest import Revoked
from superbatch.log import BatchLog
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_batch
from tests.superbatch.log.conftest import OpenLog, Pauses
from tests.superbatch.log.fake_service import JOB, FakeService, problem


def publish_after_reports(service: FakeService, num_reports: int, num_batches: int) -> Callable[..., None]:
    """A hook that publishes a whole job once there were so many reports; only the reading thread sends GETs."""

    def hook(request: httpx.Request) -> None:
        if request.method == "GET" and len(service.reports) >= num_reports and service.end is None:
            service.publish_all(num_batches)

    return hook


def rest_of(log: BatchLog) -> list[tuple[int, list[bytes], bytes]]:
    return [(batch.seq, batch.rows.column("uid").to_pylist(), batch.log_digest) for batch in log]


def times(number: int, answer: Callable[[httpx.Request], httpx.Response], *, path: str = "") -> Callable[..., object]:
    """A hook that answers the first requests whose path holds `path`."""
    left = [number]

    def hook(request: httpx.Request) -> httpx.Response | None:
        if path not in request.url.path or not left[0]:
            return None
        left[0] -= 1
        return answer(request)

    return hook


def dropped(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("connection reset", request=request)


def test_a_whole_job_is_handed_out_in_order(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(7, per_list=2)
    with open_log() as log:
        batches = list(log)
    assert [batch.seq for batch in batches] == list(range(7))
    assert all(pa.Table.from_batches([batch.rows]).equals(a_batch(batch.seq)) for batch in batches)
    assert [batch.generation for batch in batches] == [0, 0, 0, 0, 1, 1, 1]
    assert [batch.staleness for batch in batches] == [None, None, None, None, 4, 5, 6]
    assert (batches[0].rule, batches[4].rule, batches[4].scored_with is None) == ("easy_reference", None, False)
    assert {(batch.f, batch.B) for batch in batches} == {(0.8, 20)}
    assert batches[-1].log_digest == service.log_digest()
    with pytest.raises(StopIteration):
        next(log)


@pytest.mark.parametrize("per_list", [1, 2, 5])
def test_resuming_at_every_seq_gives_all_that_follows(service: FakeService, open_log: OpenLog, per_list: int) -> None:
    service.publish_all(24, per_list=per_list)
    whole = rest_of(open_log())
    log = open_log()
    for seq in range(25):
        state = json.loads(json.dumps(log.state()))
        assert sorted(state) == ["history_id", "job", "log_digest", "next_seq"]
        assert state["next_seq"] == seq
        assert rest_of(open_log(state=state)) == whole[seq:]
        next(log, None)


def test_a_log_waits_for_what_is_not_there_yet(service: FakeService, open_log: OpenLog, pauses: Pauses) -> None:
    log = open_log()
    polls = 0

    def publish_at_the_third(request: httpx.Request) -> None:
        nonlocal polls
        polls += "manifest" in request.url.path
        if polls == 3 and not service.segments:
            service.publish_all(1)

    service.hooks.append(publish_at_the_third)
    assert [batch.seq for batch in log] == [0]
    first, second, third, *_ = [request for request in service.requests if "manifest" in request.url.path]
    assert dict(first.url.params) == {"after": "0", "wait": "0.0"}
    assert dict(second.url.params) == {"after": "0", "wait": "20.0", "history": "h1"}
    assert second.headers["If-None-Match"] == third.headers["If-None-Match"]
    assert pauses.taken == [0.2]


def test_a_log_that_stays_empty_too_long_says_so_and_may_be_asked_again(
    service: FakeService, open_log: OpenLog
) -> None:
    log = open_log(idle_limit_s=0.05)
    for _ in range(2):
        with pytest.raises(LogStalled, match=r"within the idle limit; batch 0 of job job_1 did not"):
            next(log)
    service.publish_all(2)
    assert [batch.seq for batch in log] == [0, 1]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("failed", r"the job failed after 3 batches; all of them were delivered\. Save .* and retry the job\."),
        (
            "cancelled",
            r"the job was cancelled after 3 batches; .* A cancelled job cannot go on: .* submit a job for what",
        ),
    ],
)
def test_a_job_that_ended_early_is_delivered_and_then_raises(
    service: FakeService, open_log: OpenLog, end: str, told: str
) -> None:
    service.publish_all(3)
    service.end = end
    log = open_log()
    assert [next(log).seq for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LogEnded, match=told) as caught:
        next(log)
    assert (caught.value.state, caught.value.final_seq) == (end, 3)
    service.publish_all(1)  # a retried job goes on in the same log
    assert [batch.seq for batch in log] == [3]


def test_a_registered_trainer_that_waits_stays_registered(service: FakeService, open_log: OpenLog) -> None:
    """An index pass may last longer than the ttl, and a silent learner pauses production: nobody would ever move."""
    log = open_log(clock=time.monotonic)
    log.register("trainer", ttl_s=0.3, rewind=True)
    service.hooks.append(publish_after_reports(service, 4, 1))
    assert [batch.seq for batch in log] == [0]
    first, *repeated = service.reports
    assert len(repeated) >= 3
    assert all(report == {**first, "rewind": False} for report in repeated), "a checkpoint pushed since is not orphaned"


def test_a_log_that_registered_nobody_reports_nothing_while_it_waits(service: FakeService, open_log: OpenLog) -> None:
    with pytest.raises(LogStalled):
        next(open_log(idle_limit_s=0.05))
    assert not service.reports


def test_a_trainer_that_lost_its_place_while_it_waited_is_told(service: FakeService, open_log: OpenLog) -> None:
    log = open_log(clock=time.monotonic)
    log.register("trainer", ttl_s=0.1)
    service.hooks.append(
        lambda request: problem(409, "second_learner", "other goes on") if request.method == "PUT" else None
    )
    with pytest.raises(ServiceError, match=r"409 \(second_learner\): other goes on"):
        next(log)


def test_a_lost_history_is_noticed(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(6)
    log = open_log(lists_ahead=1)
    next(log)
    state = log.state()
    service.history_id = "h2"  # the first page holds three batches, so the log must ask again
    with pytest.raises(HistoryChanged, match="begun anew"):
        list(log)
    with pytest.raises(HistoryChanged, match="begun anew"):
        list(open_log(state=state))
    with pytest.raises(HistoryChanged, match="begun anew"):
        open_log(history_id="h1").manifest()


def test_a_service_that_forgets_to_say_409_is_noticed(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(2)
    state = {**open_log().state(), "next_seq": 2, "log_digest": service.log_digest().hex()}
    service.segments.pop()
    with pytest.raises(HistoryChanged, match="with 1 batches, at batch 2"):
        list(open_log(state=state))
    service.hooks.append(lambda request: httpx.Response(200, json=replace(service.manifest(0), job="job_2").to_json()))
    with pytest.raises(HistoryChanged, match="got job 'job_2'"):
        list(open_log())


def test_batches_behind_retention_say_what_is_left(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(5)
    service.oldest_seq = 3
    with pytest.raises(BehindRetention, match="got seq 0, oldest is 3") as caught:
        list(open_log())
    assert caught.value.oldest_seq == 3


def test_a_state_of_another_job_or_history_is_refused(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(2)
    state = open_log().state()
    with pytest.raises(HistoryChanged, match="one of job 'job_1' for job 'job_2'"):
        open_log("job_2", state=state)
    with pytest.raises(HistoryChanged, match="got 'h1' where 'h9' is wanted"):
        open_log(state=state, history_id="h9")
    with pytest.raises(HistoryChanged, match="digest of an empty log"):
        open_log(state={**state, "log_digest": "00" * 32})


@pytest.mark.parametrize(
    "change", [{"next_seq": -1}, {"next_seq": "2"}, {"log_digest": "xyz"}, {"history_id": None}, {"job": None}]
)
def test_a_broken_state_is_refused(service: FakeService, open_log: OpenLog, change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"BatchLog.state\(\)"):
        open_log(state={**open_log().state(), **change})


def test_a_state_that_does_not_continue_the_log_is_refused(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(4, per_list=2)
    log = open_log()
    next(log)
    for wrong in ({"log_digest": "00" * 32}, {"next_seq": 2}):
        with pytest.raises(DigestMismatch, match="must continue the log"):
            next(open_log(state={**log.state(), **wrong}))


def test_a_list_that_is_not_what_was_published_is_refused(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(2)
    name = service.segments[0].list_link.rpartition("/")[2]
    whole = service.lists[name]
    for wrong in (whole[:-1], whole + b"x", b"", bytes([whole[0] ^ 1]) + whole[1:]):
        service.lists[name] = wrong
        with pytest.raises(DigestMismatch, match="3 tries"):
            next(open_log())
    service.lists[name] = whole
    service.hooks.append(times(2, lambda request: httpx.Response(200, content=whole[:-1]), path="/lists/"))
    assert next(open_log()).seq == 0


def republished(service: FakeService, position: int, data: bytes) -> None:
    """Put another list in the place of a published one, under its own right digest."""
    old = service.segments[position]
    name = old.list_link.rpartition("/")[2]
    service.lists[name] = data
    service.segments[position] = replace(old, num_bytes=len(data), sha256=sha256(data).hexdigest())


def test_other_batches_under_the_same_seq_break_the_chain(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(3)
    uids = a_batch(1).column("uid").to_pylist()[::-1]
    republished(service, 1, write_batch_list([a_batch(1, uid=uids)], fingerprint=FINGERPRINT))
    log = open_log()
    next(log)
    with pytest.raises(DigestMismatch, match="batches 1 to 1 must continue the log"):
        next(log)


def test_a_list_of_another_place_or_dataset_is_refused(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(3)
    for data in (
        write_batch_list([a_batch(0)], fingerprint=FINGERPRINT),
        write_batch_list([a_batch(1)], fingerprint=b"\0" * 32),
        b"no parquet",
    ):
        republished(service, 1, data)
        log = open_log()
        next(log)
        with pytest.raises(CorruptFile):
            next(log)


def test_a_list_may_hold_more_than_its_segment(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(4, per_list=4)
    (whole,) = service.segments
    digests = [batch.log_digest.hex() for batch in open_log()]
    service.segments = [
        replace(whole, first_seq=first, num_batches=2, f=(0.8,) * 2, B=(20,) * 2, log_digest_end=digests[first + 1])
        for first in (0, 2)
    ]
    assert [batch.seq for batch in open_log()] == [0, 1, 2, 3]


def test_a_manifest_with_a_gap_is_refused(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(3)
    del service.segments[1]
    log = open_log()
    next(log)
    with pytest.raises(CorruptFile, match="got batches 2 to 2 where batch 1 belongs"):
        next(log)
    service.segments.pop()
    service.hooks.append(
        lambda request: httpx.Response(200, json=replace(service.manifest(1), next_seq=3, final_seq=3).to_json())
    )
    with pytest.raises(CorruptFile, match="ended with 3 batches but gave none from 1 on"):
        next(open_log(state=log.state()))


def test_a_withdrawn_batch_raises_or_is_skipped(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(6, per_list=2)
    whole = rest_of(open_log())
    service.revoked = (Revoked(first_seq=3, num_batches=2, reason="row excluded"),)
    log = open_log()
    assert [next(log).seq for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(RevokedBatch, match="batch 3 was revoked"):
            next(log)
    assert rest_of(open_log(on_revoked="skip", world_size=1)) == whole[:3] + whole[5:]


def test_lost_connections_and_restarts_are_ridden_out(service: FakeService, open_log: OpenLog, pauses: Pauses) -> None:
    service.publish_all(3)
    service.hooks += [
        times(2, dropped, path="manifest"),
        times(3, lambda request: problem(503, "starting", "not yet"), path="manifest"),
        times(1, dropped, path="/lists/"),
        times(1, lambda request: httpx.Response(502, text="<html>bad gateway"), path="/lists/"),
    ]
    assert [batch.seq for batch in open_log()] == [0, 1, 2]
    limits = [0.25, 0.5, 1.0, 2.0, 4.0, 0.25, 0.5]
    assert len(pauses.taken) == len(limits)
    assert all(limit / 2 <= taken <= limit for taken, limit in zip(pauses.taken, limits, strict=True))


def test_a_service_that_stays_away_is_an_error_after_minutes(
    service: FakeService, open_log: OpenLog, pauses: Pauses
) -> None:
    service.hooks.append(dropped)
    with pytest.raises(ServiceUnreachable, match="within 12 tries; the last one: ReadError: connection reset"):
        next(open_log())
    assert 45 < pauses.now_s < 180
    service.hooks[0] = lambda request: problem(500, "internal", "sorry")
    with pytest.raises(ServiceUnreachable, match=r"answered 500 \(internal\): sorry"):
        next(open_log(num_attempts=2))


def test_an_answer_that_a_repetition_cannot_help_is_raised_at_once(service: FakeService, open_log: OpenLog) -> None:
    with pytest.raises(ServiceError, match=r"answered 401 \(unauthorized\)"):
        next(open_log(token="wrong"))
    assert len(service.requests) == 1
    service.hooks.append(lambda request: httpx.Response(404, text="nothing here"))
    with pytest.raises(ServiceError, match=r"404 \(http_404\): nothing here"):
        next(open_log())


def test_a_failure_in_the_middle_can_be_tried_again_on_the_same_log(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(3)
    log = open_log(num_attempts=1)
    service.hooks.append(times(1, dropped, path="/lists/000000000001-"))
    assert next(log).seq == 0
    with pytest.raises(ServiceUnreachable):
        next(log)
    assert [batch.seq for batch in log] == [1, 2]


def test_the_token_goes_to_the_service_only(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(1)
    (segment,) = service.segments
    name = segment.list_link.rpartition("/")[2]
    service.segments = [replace(segment, list_link=f"https://bucket.example/{name}")]
    service.hooks.append(
        lambda request: httpx.Response(200, content=service.lists[name]) if request.url.host != "127.0.0.1" else None
    )
    assert len(list(open_log())) == 1
    assert ["Authorization" in request.headers for request in service.requests] == [True, False]
    service.segments = [replace(segment, list_link="file:///etc/passwd")]
    with pytest.raises(InvalidInput, match="http or https"):
        list(open_log())


def test_lists_come_from_the_cache_when_they_are_whole(
    service: FakeService, open_log: OpenLog, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service.publish_all(4)
    cache = tmp_path_factory.mktemp("cache")
    whole = rest_of(open_log(cache_dir=cache))
    assert len(list(cache.iterdir())) == 4
    service.requests.clear()
    assert rest_of(open_log(cache_dir=cache)) == whole
    assert not [request for request in service.requests if "/lists/" in request.url.path]
    damaged = cache / f"{service.segments[2].sha256}.parquet"
    damaged.write_bytes(b"rotten")
    assert rest_of(open_log(cache_dir=cache)) == whole
    assert damaged.read_bytes() != b"rotten"
    rest_of(open_log(cache_dir=cache, cache_bytes=2 * service.segments[0].num_bytes))
    list_sizes = [segment.num_bytes for segment in service.segments]
    again = open_log(cache_dir=tmp_path_factory.mktemp("small"), cache_bytes=2 * max(list_sizes))
    assert rest_of(again) == whole


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://", "file:///x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="address must"):
        BatchLog(url, JOB)


@pytest.mark.parametrize("job", ["", "../x", "a/b", "a?b", "jöb"])
def test_a_job_that_is_none_is_refused(job: str) -> None:
    with pytest.raises(InvalidInput, match="a job name has"):
        BatchLog("http://127.0.0.1", job)


def test_a_wall_clock_that_jumps_changes_nothing(
    service: FakeService, open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting, reports, pauses and the cache go by the monotonic clock or by none."""
    jumps = itertools.cycle([0.0, 4e9, 1.0, 2e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * next(jumps)))
    log = open_log(cache_dir=tmp_path / "cache", clock=time.monotonic, idle_limit_s=60.0)
    log.register("trainer", ttl_s=0.3)
    service.hooks.append(publish_after_reports(service, 3, 5))
    assert [batch.seq for batch in log] == [0, 1, 2, 3, 4]
    log.progress(trained_seq=5, durable_seq=5)
    *waited, last = [report["trained_seq"] for report in service.reports]
    assert (len(waited) >= 3, set(waited), last) == (True, {0}, 5)


def test_states_between_what_is_asked_for_and_what_is_saved_can_be_had(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(8, per_list=3)
    log = open_log()
    log.register("trainer")
    digests = [log.state()["log_digest"], *(batch.log_digest.hex() for batch in log)]
    assert [log.state_at(seq)["log_digest"] for seq in range(9)] == digests
    assert log.state_at(8) == log.state()
    log.progress(trained_seq=6, durable_seq=5)
    with pytest.raises(InvalidInput, match=r"has passed, 5 to 8; got 4 .* not yet reported as durable"):
        log.state_at(4)
    with pytest.raises(InvalidInput, match="got 9"):
        log.state_at(9)
    assert [batch.seq for batch in open_log(state=log.state_at(5))] == [5, 6, 7]


def test_a_batch_of_another_size_than_the_manifest_says_is_refused(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(2)
    service.b = 8
    with pytest.raises(CorruptFile, match="must have the 8 rows that the manifest says; got 4 in batch 0"):
        next(open_log())
