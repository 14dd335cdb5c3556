"""A log read from plain files: the same batches as from the service, and the same clear errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from superbatch.formats.bucket import LOG_END_NAME, log_segment_name
from superbatch.formats.errors import (
    BehindRetention,
    CorruptFile,
    DigestMismatch,
    HistoryChanged,
    InvalidInput,
    LogEnded,
    LogStalled,
    ServiceUnreachable,
    UnsupportedVersion,
)
from superbatch.formats.manifest import Revoked
from superbatch.log import BatchLog
from superbatch.log.prefix_source import PrefixSource
from tests.superbatch.formats.sample_batches import a_shard_table
from tests.superbatch.log.bucket_folder import write_log
from tests.superbatch.log.conftest import OpenLog, Pauses
from tests.superbatch.log.fake_service import JOB, FakeService
from tests.superbatch.log.test_batch_log import rest_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs" / JOB / "h1"


def test_files_and_service_give_the_same_batches_manifest_and_shard_table(
    service: FakeService, open_log: OpenLog, folder: Path
) -> None:
    service.publish_all(9, per_list=2)
    write_log(service, folder)
    with BatchLog.from_prefix(folder) as log, open_log() as from_service:
        assert log.job == JOB
        assert log.shard_table() == a_shard_table(100, 100)
        assert log.manifest().policy == service.policy
        batches = list(log)
        assert [(batch.seq, batch.generation, batch.staleness, batch.rule) for batch in batches] == [
            (batch.seq, batch.generation, batch.staleness, batch.rule) for batch in from_service
        ]
        assert batches[-1].log_digest == service.log_digest()
        assert log.state() == from_service.state()


@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: BatchLog.from_prefix(str(folder)),
        lambda folder: BatchLog.from_prefix(folder.as_uri()),
        lambda folder: BatchLog.from_prefix(folder.as_uri() + "/"),
        lambda folder: BatchLog.from_prefix(str(folder), filesystem=fs.LocalFileSystem()),
        lambda folder: BatchLog.from_prefix(
            f"{JOB}/h1", filesystem=fs.SubTreeFileSystem(str(folder.parents[1]), fs.LocalFileSystem())
        ),
    ],
    ids=["path", "file uri", "file uri with slash", "filesystem", "subtree"],
)
def test_a_prefix_may_be_named_in_every_way(
    service: FakeService, folder: Path, opened: Callable[[Path], BatchLog]
) -> None:
    service.publish_all(3)
    with opened(write_log(service, folder)) as log:
        assert [batch.seq for batch in log] == [0, 1, 2]


@pytest.mark.parametrize("per_list", [1, 5, 24])
def test_a_log_in_files_resumes_at_every_seq(service: FakeService, folder: Path, per_list: int) -> None:
    """A state may lie in the middle of a segment, whose file has another name."""
    service.publish_all(24, per_list=per_list)
    write_log(service, folder)
    with BatchLog.from_prefix(folder) as log:
        whole = rest_of(log)
        states = [log.state_at(seq) for seq in range(25)]
    for seq, state in enumerate(states):
        with BatchLog.from_prefix(folder, state=state) as log:
            assert rest_of(log) == whole[seq:]


def test_a_state_far_inside_a_long_segment_is_found(service: FakeService, folder: Path) -> None:
    service.b = 2
    service.publish_all(100, per_list=100)
    write_log(service, folder)
    with BatchLog.from_prefix(folder) as log:
        whole = rest_of(log)
        state = log.state_at(99)
    with BatchLog.from_prefix(folder, state=state) as log:
        assert rest_of(log) == whole[99:]


def test_batches_arrive_as_their_files_do(service: FakeService, folder: Path) -> None:
    service.publish_all(6, per_list=2)
    whole, service.segments, service.end = service.segments, [], None
    write_log(service, folder)
    with BatchLog.from_prefix(folder) as log:
        seqs: list[int] = []
        reader = threading.Thread(target=lambda: seqs.extend(batch.seq for batch in log))
        reader.start()
        for count in range(1, 4):
            service.segments = whole[:count]
            service.end = "complete" if count == 3 else None
            write_log(service, folder)
        reader.join(60)
    assert seqs == [0, 1, 2, 3, 4, 5]


def test_one_known_name_is_polled_with_growing_random_pauses(
    service: FakeService, folder: Path, pauses: Pauses
) -> None:
    write_log(service, folder)
    source = PrefixSource(folder, sleep=pauses.sleep, clock=pauses.clock)
    assert source.manifest(0, history_id=None, wait_s=60.0) is not None
    assert sum(pauses.taken) == pytest.approx(60.0)
    limits = [0.25, 0.5, 1.0, 2.0, 4.0] + [5.0] * (len(pauses.taken) - 6)
    assert all(limit / 2 <= taken <= limit for taken, limit in zip(pauses.taken, limits, strict=False))
    assert len(set(pauses.taken)) == len(pauses.taken), "two ranks must not ask in step"


def test_a_log_that_has_not_begun_is_waited_for_when_its_job_is_named(service: FakeService, folder: Path) -> None:
    folder.mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"must hold log/head.json; got none in .* name the job to wait"):
        BatchLog.from_prefix(folder)
    service.publish_all(2)
    threading.Timer(0.2, write_log, (service, folder)).start()
    with BatchLog.from_prefix(folder, JOB, wait_s=1.0) as log:
        assert [batch.seq for batch in log] == [0, 1]
    with pytest.raises(HistoryChanged, match="got job 'job_1'"), BatchLog.from_prefix(folder, "job_2") as log:
        next(log)


def test_an_empty_or_unfinished_log_stalls_like_the_service(service: FakeService, folder: Path) -> None:
    service.publish_all(2)
    service.end = None
    with BatchLog.from_prefix(write_log(service, folder), idle_limit_s=0.05) as log:
        assert [next(log).seq, next(log).seq] == [0, 1]
        with pytest.raises(LogStalled, match="batch 2 of job job_1"):
            next(log)


def test_a_cancelled_log_is_delivered_and_then_raises(service: FakeService, folder: Path) -> None:
    service.publish_all(2)
    service.end = "cancelled"
    with BatchLog.from_prefix(write_log(service, folder)) as log:
        assert [next(log).seq, next(log).seq] == [0, 1]
        with pytest.raises(LogEnded, match="was cancelled after 2 batches"):
            next(log)


def test_batches_behind_retention_say_what_is_left(service: FakeService, folder: Path) -> None:
    service.publish_all(6, per_list=2)
    write_log(service, folder)
    with BatchLog.from_prefix(folder) as log:
        list(log)
        states = [log.state_at(seq) for seq in range(6)]
    for first_seq in (0, 2):
        (folder / log_segment_name(first_seq)).unlink()
    for seq in range(4):
        with BatchLog.from_prefix(folder, state=states[seq]) as log:
            with pytest.raises(BehindRetention, match=f"got seq {seq}, oldest is 4") as caught:
                next(log)
            assert caught.value.oldest_seq == 4
    with BatchLog.from_prefix(folder, state=states[5]) as log:
        assert [batch.seq for batch in log] == [5]


def test_a_state_of_another_history_or_beyond_the_log_is_refused(
    service: FakeService, folder: Path, tmp_path: Path
) -> None:
    service.publish_all(4)
    write_log(service, folder)
    with BatchLog.from_prefix(folder) as log:
        list(log)
        state, early = log.state(), log.state_at(1)
    other = FakeService(history_id="h2")
    other.publish_all(2)
    write_log(other, tmp_path / "other")
    for saved in (state, early):
        with (
            pytest.raises(HistoryChanged, match="is 'h2'"),
            BatchLog.from_prefix(tmp_path / "other", state=saved) as log,
        ):
            next(log)
    shorter = FakeService()
    shorter.publish_all(2)
    with (
        pytest.raises(HistoryChanged, match="with 2 batches, at batch 4"),
        BatchLog.from_prefix(write_log(shorter, tmp_path / "shorter"), state=state) as log,
    ):
        next(log)
    with (
        pytest.raises(DigestMismatch, match="must continue the log"),
        BatchLog.from_prefix(folder, state={**early, "log_digest": "00" * 32}) as log,
    ):
        next(log)


def test_two_logs_in_one_folder_are_noticed(service: FakeService, folder: Path) -> None:
    service.publish_all(2)
    write_log(service, folder)
    second = folder / log_segment_name(1)
    second.write_bytes(second.read_bytes().replace(b'"h1"', b'"h2"'))
    noticed = pytest.raises(HistoryChanged, match=r"history 'h2', seq 1 beside .* 'h1', seq 1 \(.*000000000001.json")
    with BatchLog.from_prefix(folder) as log, noticed:
        list(log)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "3 tries"),
        (lambda content: content[:-9] + b"x" + content[-8:], "3 tries"),
        (lambda content: content + b"x", "may have .* bytes; got more"),
        (lambda content: b"", "got 0 bytes"),
    ],
    ids=["cut off", "one byte wrong", "longer", "empty"],
)
def test_a_damaged_list_never_reaches_the_trainer(
    service: FakeService,
    folder: Path,
    damage: Callable[[bytes], bytes],
    message: str,
    pauses: Pauses,
) -> None:
    service.publish_all(2)
    path = write_log(service, folder) / service.segments[1].list_link
    path.write_bytes(damage(path.read_bytes()))
    with BatchLog("", JOB, source=PrefixSource(folder, sleep=pauses.sleep)) as log:
        assert next(log).seq == 0
        with pytest.raises(DigestMismatch, match=message):
            next(log)


def test_a_missing_list_is_named(service: FakeService, folder: Path, pauses: Pauses) -> None:
    service.publish_all(1)
    (write_log(service, folder) / service.segments[0].list_link).unlink()
    named = pytest.raises(CorruptFile, match=r"must be there; got no 'lists/000000000000-")
    with BatchLog("", JOB, source=PrefixSource(folder, sleep=pauses.sleep)) as log, named:
        next(log)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        (log_segment_name(0), lambda content: content[: len(content) // 2], CorruptFile),
        (log_segment_name(0), lambda content: content.replace(b'"1.0"', b'"2.0"'), UnsupportedVersion),
        (log_segment_name(0), lambda content: content.replace(b'"lists/', b'"../../'), InvalidInput),
        (log_segment_name(0), lambda content: b" " * (1 << 21), CorruptFile),
        ("log/head.json", lambda content: b"[]", CorruptFile),
        (LOG_END_NAME, lambda content: content.replace(b'"final_seq":2', b'"final_seq":9'), CorruptFile),
        (LOG_END_NAME, lambda content: content.replace(b'"final_seq":2', b'"final_seq":1'), HistoryChanged),
        (LOG_END_NAME, lambda content: content.replace(b'"h1"', b'"h2"'), HistoryChanged),
    ],
)
def test_damaged_documents_are_refused(
    service: FakeService, folder: Path, name: str, change: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    service.publish_all(2)
    path = write_log(service, folder) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(error), BatchLog.from_prefix(folder, JOB) as log:
        list(log)


def test_a_log_in_files_reports_nothing_and_skips_what_it_is_told(service: FakeService, folder: Path) -> None:
    service.publish_all(4)
    write_log(service, folder)
    withdrawn = (Revoked(first_seq=1, num_batches=2, reason="row excluded"),)
    with BatchLog.from_prefix(folder, skipped=withdrawn, world_size=2) as log:
        for refused in (lambda: log.register("trainer"), log.roots):
            with pytest.raises(InvalidInput, match="can neither report nor push"):
                refused()
        assert [batch.seq for batch in log] == [0, 3]
    with pytest.raises(InvalidInput, match="b = 4, 3"):
        BatchLog.from_prefix(folder, world_size=3)


class FailingStore(fs.FileSystemHandler):
    """A store that fails a number of times before each answer, below a folder."""

    def __init__(self, folder: Path, failures: int, error: type[OSError]) -> None:
        self.local = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        self.failures, self.left, self.error = failures, failures, error

    def _fail(self) -> None:
        if self.left:
            self.left -= 1
            raise self.error("connection reset")
        self.left = self.failures

    def open_input_stream(self, path: str) -> object:
        self._fail()
        return self.local.open_input_stream(path)

    def get_file_info(self, paths: list[str]) -> object:
        self._fail()
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> object:
        self._fail()
        return self.local.get_file_info(selector)

    def normalize_path(self, path: str) -> str:
        return path

    def get_type_name(self) -> str:
        return "failing"

    def _unused(self, *arguments: object, **options: object) -> None:
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = _unused
    move = open_append_stream = open_input_file = open_output_stream = _unused


def test_a_store_that_fails_is_asked_again_and_given_up_in_the_end(
    service: FakeService, folder: Path, pauses: Pauses
) -> None:
    service.publish_all(3)
    write_log(service, folder)

    def opened(failures: int, error: type[OSError]) -> BatchLog:
        store = fs.PyFileSystem(FailingStore(folder, failures, error))
        return BatchLog("", JOB, source=PrefixSource("", filesystem=store, sleep=pauses.sleep))

    with opened(3, OSError) as log:
        assert [batch.seq for batch in log] == [0, 1, 2]
    with opened(99, OSError) as log, pytest.raises(ServiceUnreachable, match="connection reset after 12 tries"):
        next(log)
    with opened(99, PermissionError) as log, pytest.raises(ServiceUnreachable, match="connection reset after 1 tries"):
        next(log)


class HurriedStore(FailingStore):
    """A store in which the whole log appears between the look for a segment and the look for the end."""

    def __init__(self, folder: Path, service: FakeService) -> None:
        super().__init__(folder, 0, OSError)
        self.folder, self.service, self.num_looks = folder, service, 0

    def open_input_stream(self, path: str) -> object:
        self.num_looks += path.endswith(LOG_END_NAME)
        if self.num_looks == 2:  # the first one only opens the log
            write_log(self.service, self.folder)
        return super().open_input_stream(path)


def test_segments_that_come_just_before_the_end_are_not_missed(service: FakeService, folder: Path) -> None:
    write_log(service, folder)
    service.publish_all(3)
    store = fs.PyFileSystem(HurriedStore(folder, service))
    with BatchLog.from_prefix("", filesystem=store) as log:
        assert [batch.seq for batch in log] == [0, 1, 2]


def test_a_uri_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"must be a path or a URI that pyarrow\.fs knows"):
        BatchLog.from_prefix("ftp://host/x")


def test_a_segment_that_promises_other_batches_is_refused(service: FakeService, folder: Path) -> None:
    service.publish_all(3)
    service.segments[1] = replace(service.segments[1], log_digest_end="00" * 32)
    with BatchLog.from_prefix(write_log(service, folder)) as log:
        assert next(log).seq == 0
        with pytest.raises(DigestMismatch, match="batches 1 to 1 must continue the log"):
            next(log)


def test_closing_ends_a_wait_for_a_log_that_has_not_begun(tmp_path: Path) -> None:
    log = BatchLog.from_prefix(tmp_path / "not_yet", "job_0", wait_s=60.0)
    waited: list[BaseException] = []

    def wait() -> None:
        try:
            next(log)
        except BaseException as error:
            waited.append(error)

    trainer = threading.Thread(target=wait, daemon=True)
    trainer.start()
    try:
        trainer.join(0.3)
        assert trainer.is_alive(), "it waits for the log to begin"
    finally:
        log.close()
        trainer.join(5.0)
    assert not trainer.is_alive()
    assert isinstance(waited[0], InvalidInput)
    assert "was closed while its beginning was waited for" in str(waited[0])


def test_a_log_that_does_not_begin_within_the_idle_limit_is_stalled(tmp_path: Path) -> None:
    with (
        BatchLog.from_prefix(tmp_path / "wrong", "job_0", wait_s=0.05, idle_limit_s=0.2) as log,
        pytest.raises(LogStalled, match=r"must begin within the idle limit of 0.2 s"),
    ):
        next(log)


def test_tries_of_a_prefix_are_the_ones_asked_for(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "head.json").mkdir()
    with pytest.raises(ServiceUnreachable, match="after 1 tries"):
        BatchLog.from_prefix(tmp_path, num_attempts=1)
