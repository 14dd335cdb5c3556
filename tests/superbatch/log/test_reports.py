"""Registration, progress, checkpoints, shard table and roots: exactly what the contract sends."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from superbatch.formats.digests import log_digest_start
from superbatch.formats.errors import CorruptFile, HistoryChanged, InvalidInput, ServiceError
from superbatch.log import place_checkpoint
from superbatch.log.cursor import Cursor
from tests.superbatch.formats.sample_batches import a_shard_table
from tests.superbatch.log.conftest import OpenLog
from tests.superbatch.log.fake_service import JOB, FakeService, problem

HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"\0\0\x80\x3f"


def test_registration_is_the_first_report(service: FakeService, open_log: OpenLog) -> None:
    open_log(read_ahead=2).register("trainer", world_size=2, accumulation=3, checkpoint_every=50, ttl_s=30.0)
    assert service.reports == [
        {
            "name": "trainer",
            "role": "learner",
            "world_size": 2,
            "accumulation": 3,
            "read_ahead": 2,
            "checkpoint_every": 50,
            "delivered_seq": 0,
            "trained_seq": 0,
            "durable_seq": 0,
            "log_digest": log_digest_start(JOB, "h1").hex(),
            "ttl_s": 30.0,
            "rewind": False,
        }
    ]


def test_progress_proves_itself_by_the_digest_after_the_last_trained_batch(
    service: FakeService, open_log: OpenLog
) -> None:
    service.publish_all(6, per_list=4)
    log = open_log()
    log.register("trainer")
    digests = [log_digest_start(JOB, "h1"), *(next(log).log_digest for _ in range(5))]
    for trained_seq in range(6):
        log.progress(trained_seq=trained_seq, durable_seq=max(0, trained_seq - 2))
        report = service.reports[-1]
        assert (report["delivered_seq"], report["trained_seq"]) == (5, trained_seq)
        assert report["log_digest"] == digests[trained_seq].hex()
    log.progress(trained_seq=4, durable_seq=3, delivered_seq=4, rewind=True)
    assert service.reports[-1]["rewind"] is True
    with pytest.raises(InvalidInput, match="has passed, 3 to 5; got 2"):
        log.progress(trained_seq=2, durable_seq=2)
    with pytest.raises(InvalidInput, match="has passed, 3 to 5; got 6"):
        log.progress(trained_seq=6, durable_seq=3, delivered_seq=6)


def test_a_resumed_trainer_registers_where_it_stands(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(6)
    log = open_log()
    for _ in range(4):
        batch = next(log)
    resumed = open_log(state=log.state())
    resumed.register("trainer", rewind=True)
    report = service.reports[-1]
    assert (report["delivered_seq"], report["trained_seq"], report["durable_seq"]) == (4, 4, 4)
    assert (report["log_digest"], report["rewind"]) == (batch.log_digest.hex(), True)


@pytest.mark.parametrize(("trained_seq", "durable_seq", "delivered_seq"), [(1, 2, 2), (2, 0, 1), (1, -1, 2)])
def test_counts_out_of_order_are_refused(
    service: FakeService, open_log: OpenLog, trained_seq: int, durable_seq: int, delivered_seq: int
) -> None:
    service.publish_all(3)
    log = open_log()
    log.register("trainer")
    list(log)
    with pytest.raises(InvalidInput, match="counts must satisfy"):
        log.progress(trained_seq=trained_seq, durable_seq=durable_seq, delivered_seq=delivered_seq)


def test_progress_needs_registration_and_a_plain_name(open_log: OpenLog) -> None:
    with pytest.raises(InvalidInput, match="must register before"):
        open_log().progress(trained_seq=0, durable_seq=0)
    with pytest.raises(InvalidInput, match="a consumer name has"):
        open_log().register("a/b")


def test_a_refusal_is_raised_with_code_and_detail(service: FakeService, open_log: OpenLog) -> None:
    service.hooks.append(
        lambda request: problem(422, "not_divisible", "b = 128, R = 3") if "consumers" in request.url.path else None
    )
    with pytest.raises(ServiceError, match=r"422 \(not_divisible\): b = 128, R = 3") as caught:
        open_log().register("trainer", world_size=3)
    assert (caught.value.status, caught.value.problem_code) == (422, "not_divisible")
    for code in ("history_changed", "other_history", "wrong_job"):
        service.hooks[0] = lambda request, code=code: problem(409, code, "new log") if request.method == "PUT" else None
        with pytest.raises(HistoryChanged, match="new log"):
            open_log().register("trainer")


def test_a_checkpoint_lies_in_its_root_before_it_is_announced(
    service: FakeService, open_log: OpenLog, tmp_path: Path
) -> None:
    path = tmp_path / "learner/step_4.safetensors"
    service.hooks.append(lambda request: None if path.exists() else problem(422, "missing_file", str(path)))
    pushed = open_log().push_checkpoint(
        WEIGHTS, root="checkpoints", root_path=tmp_path, key="learner/step_4.safetensors", trained_seq=4
    )
    assert path.read_bytes() == WEIGHTS
    files = [{"role": "weights", "root": "checkpoints", "key": "learner/step_4.safetensors", "sha256": pushed.sha256}]
    assert service.checkpoints == [{"trained_seq": 4, "files": files}]
    assert (pushed.checkpoint_id, pushed.state, pushed.trained_seq) == ("ckp_9", "RECEIVED", 4)


def test_the_digests_that_a_report_may_name_are_bounded() -> None:
    cursor = Cursor.at_start(JOB, "h1")
    for _ in range((1 << 16) + 10):
        cursor.advance(b"d" * 32)
    assert cursor.digest_at(cursor.next_seq).hex() == cursor.state()["log_digest"]
    assert len({cursor.digest_at(cursor.next_seq - back) for back in range(1 << 16)}) == 1 << 16
    with pytest.raises(InvalidInput, match="has passed, 11 to 65546; got 10"):
        cursor.digest_at(10)


def test_a_file_may_be_pushed_by_path_and_again(service: FakeService, open_log: OpenLog, tmp_path: Path) -> None:
    source = tmp_path / "made.safetensors"
    source.write_bytes(WEIGHTS)
    log = open_log()
    for path, key in ((source, "a/b.safetensors"), (tmp_path / "a/b.safetensors", "a/b.safetensors")):
        log.push_checkpoint(path, root="r", root_path=tmp_path, key=key, trained_seq=1)
    first, second = [request for request in service.requests if request.method == "POST"]
    assert "Idempotency-Key" not in first.headers, "a stored answer would name the checkpoint that a rewind orphaned"
    assert first.content == second.content
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.safetensors"]


@pytest.mark.parametrize("weights", [b"", b"\x80\x04\x95" + b"\0" * 40, WEIGHTS[:20], b"PK\x03\x04" + b"\0" * 40])
def test_a_pickle_or_a_torn_file_never_leaves_the_trainer(
    service: FakeService, open_log: OpenLog, tmp_path: Path, weights: bytes
) -> None:
    with pytest.raises(InvalidInput, match="must be a safetensors file"):
        open_log().push_checkpoint(weights, root="r", root_path=tmp_path, key="w.safetensors", trained_seq=1)
    assert not service.requests
    assert not list(tmp_path.iterdir())


def test_a_published_file_is_never_overwritten(tmp_path: Path) -> None:
    digest = place_checkpoint(b"one", tmp_path, key="a/w")
    assert place_checkpoint(b"one", tmp_path, key="a/w") == digest
    with pytest.raises(InvalidInput, match="never overwritten; 'a/w' holds other bytes"):
        place_checkpoint(b"two", tmp_path, key="a/w")
    with pytest.raises(InvalidInput, match="relative path"):
        place_checkpoint(b"one", tmp_path / "a", key="../w")
    assert (tmp_path / "a/w").read_bytes() == b"one"


def test_an_answer_that_is_no_checkpoint_is_refused(service: FakeService, open_log: OpenLog, tmp_path: Path) -> None:
    service.hooks.append(lambda request: httpx.Response(202, text="thanks"))
    with pytest.raises(CorruptFile, match="pushed checkpoint"):
        open_log().push_checkpoint(WEIGHTS, root="r", root_path=tmp_path, key="w", trained_seq=1)


def test_the_shard_table_is_that_of_the_job(service: FakeService, open_log: OpenLog) -> None:
    assert open_log().shard_table() == a_shard_table(100, 100)
    other = json.dumps({**a_shard_table(1).to_json(), "dataset_fingerprint": "00" * 32})
    service.hooks.append(
        lambda request: httpx.Response(200, text=other) if request.url.path.endswith("shard-table") else None
    )
    with pytest.raises(CorruptFile, match="shard table must be of dataset"):
        open_log().shard_table()


def test_roots_are_local_paths(open_log: OpenLog) -> None:
    assert open_log().roots() == {"pool": "/data/my pool"}
