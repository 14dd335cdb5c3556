"""The sample service refuses, waits and fails as it says: asked without a socket, and over one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import httpx
import pytest

from superbatch.conformance.faults import Fault, ServerFaults, server_faults
from superbatch.conformance.http_server import RunningService
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.service import Reply, Request, SampleService
from superbatch.formats.manifest import Manifest
from superbatch.formats.shards import ShardTable
from superbatch.log import BatchLog

TOKEN = "secret"
Ask = Callable[..., Reply]


@pytest.fixture
def service(sample_job: SampleJob) -> SampleService:
    return SampleService(sample_job, token=TOKEN)


@pytest.fixture
def ask(service: SampleService) -> Ask:
    """Ask the service for something below its job."""

    def asked(target: str, *, method: str = "GET", body: object = None, **headers: str) -> Reply:
        named = {"authorization": f"Bearer {TOKEN}", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return service.answer(Request(method, f"/v1/jobs/{JOB}/{target}", named, json.dumps(body).encode()))

    return asked


def code_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["code"]


def test_the_manifest_comes_in_pages_that_end_with_the_log(ask: Ask, sample_job: SampleJob) -> None:
    segments, link = [], "manifest?after=0"
    while link:
        page = Manifest.from_json(ask(link).body)
        segments += page.segments
        link = page.next_link or ""
    assert tuple(segments) == sample_job.segments
    assert (page.end, page.final_seq) == ("complete", 12)


def test_a_known_manifest_is_not_sent_again(ask: Ask) -> None:
    first = ask("manifest?after=0")
    assert ask("manifest?after=0", if_none_match=first.headers["ETag"]).status == 304
    assert ask("manifest?after=0", if_none_match='"other"').status == 200


def test_the_shard_table_is_that_of_the_job(ask: Ask, sample_job: SampleJob) -> None:
    assert ShardTable.from_json(ask("shard-table").body) == sample_job.shard_table


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=9999999-", 416, slice(0, 0)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_list_is_served_in_ranges(
    ask: Ask, sample_job: SampleJob, header: str | None, status: int, part: slice
) -> None:
    name, content = next(iter(sample_job.lists.items()))
    reply = ask(f"lists/{name}", **({} if header is None else {"range": header}))
    assert (reply.status, reply.body) == (status, content[part])


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("manifest?after=0&history=h9", 409, "other_history"),
        ("manifest?after=13", 422, "seq_beyond_log"),
        ("manifest?after=x", 422, "validation"),
        ("lists/none.parquet", 404, "not_found"),
        ("nothing", 404, "not_found"),
    ],
)
def test_a_wrong_request_gets_the_code_of_the_service(ask: Ask, target: str, status: int, code: str) -> None:
    assert code_of(ask(target)) == (status, code)


def test_another_job_and_another_token_are_refused(service: SampleService) -> None:
    named = {"authorization": f"Bearer {TOKEN}"}
    assert code_of(service.answer(Request("GET", "/v1/jobs/job_2/manifest", named))) == (404, "not_found")
    assert code_of(service.answer(Request("GET", f"/v1/jobs/{JOB}/manifest"))) == (401, "unauthorized")


def test_what_is_behind_retention_is_gone(ask: Ask, service: SampleService) -> None:
    service.faults = ServerFaults(oldest_seq=4)
    reply = ask("manifest?after=3")
    assert code_of(reply) == (410, "behind_retention")
    assert json.loads(reply.body)["oldest_seq"] == 4
    assert ask("manifest?after=4").status == 200


def report(job: SampleJob, trained: int = 2, **fields: object) -> dict[str, object]:
    plain = {"role": "learner", "world_size": 2, "accumulation": 1, "read_ahead": 0, "delivered_seq": trained}
    counts = {"trained_seq": trained, "durable_seq": 0, "log_digest": job.log_digests[trained].hex(), "ttl_s": 60.0}
    return {**plain, **counts, "checkpoint_every": None, "rewind": False, **fields}


def test_progress_is_taken_any_number_of_times(ask: Ask, sample_job: SampleJob) -> None:
    for _ in range(2):
        assert ask("consumers/a", method="PUT", body=report(sample_job)).status == 200


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"world_size": 5}, 422, "world_size_does_not_divide"),
        ({"accumulation": 24}, 422, "world_size_does_not_divide"),
        ({"durable_seq": 3}, 422, "validation"),
        ({"delivered_seq": 13}, 422, "seq_beyond_log"),
        ({"log_digest": "00" * 32}, 409, "other_history"),
        ({"world_size": "two"}, 422, "validation"),
    ],
)
def test_a_wrong_report_is_refused(
    ask: Ask, sample_job: SampleJob, fields: dict[str, object], status: int, code: str
) -> None:
    assert code_of(ask("consumers/a", method="PUT", body=report(sample_job, **fields))) == (status, code)


def test_a_second_learner_and_a_silent_rewind_are_refused(
    ask: Ask, sample_job: SampleJob, service: SampleService
) -> None:
    ask("consumers/a", method="PUT", body=report(sample_job, 5))
    assert code_of(ask("consumers/b", method="PUT", body=report(sample_job, 5))) == (409, "second_learner")
    assert ask("consumers/b", method="PUT", body=report(sample_job, 1, role="reader")).status == 200
    assert code_of(ask("consumers/a", method="PUT", body=report(sample_job, 4))) == (409, "went_back")
    assert ask("consumers/a", method="PUT", body=report(sample_job, 4, rewind=True)).status == 200
    assert [refusal.split(":")[0] for refusal in service.registry.refusals] == ["409 second_learner", "409 went_back"]


def test_a_skipped_batch_is_withdrawn(ask: Ask, sample_job: SampleJob) -> None:
    skipped = [{"seq": 3, "reason": "a bad picture"}]
    assert ask("consumers/a", method="PUT", body=report(sample_job, 5, skipped=skipped)).status == 200
    (revoked,) = Manifest.from_json(ask("manifest?after=0").body).revoked
    assert (revoked.first_seq, revoked.num_batches) == (3, 1)
    assert "a bad picture" in revoked.reason


def test_a_pushed_checkpoint_has_an_id_of_its_own(ask: Ask) -> None:
    files = [{"role": "weights", "root": "pool", "key": "k", "sha256": "00" * 32}]
    replies = [ask("checkpoints", method="POST", body={"trained_seq": seq, "files": files}) for seq in (1, 1, 2)]
    assert [reply.status for reply in replies] == [202, 202, 202]
    ids = [json.loads(reply.body)["id"] for reply in replies]
    assert ids[0] == ids[1] != ids[2]


def test_a_busy_service_answers_every_fourth_request_with_503(ask: Ask, service: SampleService) -> None:
    service.faults = server_faults(Fault.BUSY_SERVER, service.job)
    assert [ask("shard-table").status for _ in range(8)] == [200, 200, 200, 503, 200, 200, 200, 503]


def test_a_damaged_list_is_whole_at_the_third_try(ask: Ask, service: SampleService, sample_job: SampleJob) -> None:
    service.faults = server_faults(Fault.DAMAGED_LIST, sample_job)
    name, content = next(iter(sample_job.lists.items()))
    assert [ask(f"lists/{name}").body == content for _ in range(4)] == [False, False, True, True]


def test_a_lost_list_stays_damaged_and_the_ones_before_are_whole(
    ask: Ask, service: SampleService, sample_job: SampleJob
) -> None:
    service.faults = server_faults(Fault.LOST_LIST, sample_job)
    stop = Fault.LOST_LIST.stops_at(sample_job)
    for segment in sample_job.segments:
        name = segment.list_link.rpartition("/")[2]
        whole = [ask(f"lists/{name}").body == sample_job.lists[name] for _ in range(4)]
        assert whole == [segment.stop_seq <= stop] * 4


def test_a_long_poll_without_news_comes_back_after_its_wait(service: SampleService, ask: Ask) -> None:
    service.faults = ServerFaults(restart_at_seq=4)
    next_seq = Manifest.from_json(ask("manifest?after=0").body).next_seq
    assert next_seq == 4
    assert not service.restart_wanted.is_set()
    page = Manifest.from_json(ask("manifest?after=4&wait=0.05").body)
    assert (page.segments, page.end, service.restart_wanted.is_set()) == ((), None, True)


def test_lists_appear_one_after_the_other(sample_job: SampleJob) -> None:
    service = SampleService(sample_job, token=TOKEN, lists_per_s=2.0)
    with RunningService(service) as running, BatchLog(running.url, JOB, token=TOKEN) as log:
        assert log.manifest().next_seq < 12
        assert [batch.seq for batch in log] == list(range(12))


def test_the_server_is_killed_in_the_middle_of_a_poll_and_comes_back_on_its_port(sample_job: SampleJob) -> None:
    service = SampleService(sample_job, token=TOKEN, faults=server_faults(Fault.RESTARTED_SERVER, sample_job))
    with RunningService(service, down_s=0.1) as running:
        port = running.port
        with BatchLog(running.url, JOB, token=TOKEN) as log:
            assert [batch.seq for batch in log] == list(range(12))
        assert (running.num_restarts, running.port) == (1, port)


def test_a_stopped_server_cuts_the_connections_it_had(service: SampleService) -> None:
    service.faults = ServerFaults(restart_at_seq=0)
    named = {"Authorization": f"Bearer {TOKEN}"}
    found: list[object] = []

    def poll(url: str) -> None:
        try:
            found.append(
                httpx.get(f"{url}/v1/jobs/{JOB}/manifest?after=0&wait=20", headers=named, trust_env=False, timeout=60)
            )
        except httpx.TransportError as error:
            found.append(error)

    running = RunningService(service, down_s=30.0)
    with running:
        thread = threading.Thread(target=poll, args=(running.url,))
        thread.start()
        thread.join(20)
        assert isinstance(found[0], (httpx.RemoteProtocolError, httpx.ReadError)), found
