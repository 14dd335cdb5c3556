"""The folder of lists: bounded, whole files only, safe for several ranks, and never a reason to stop a trainer."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import time
from hashlib import sha256
from pathlib import Path

import pytest

from superbatch.log.list_cache import ListCache
from tests.superbatch.log.conftest import OpenLog
from tests.superbatch.log.fake_service import FakeService
from tests.superbatch.log.test_batch_log import rest_of

NUM_RANKS = 4


def a_list(position: int, length: int = 1000) -> tuple[str, bytes]:
    data = sha256(str(position).encode()).digest() * (length // 32 + 1)
    return sha256(data[:length]).hexdigest(), data[:length]


def test_the_newest_lists_are_kept_up_to_the_limit_and_the_last_one_always(tmp_path: Path) -> None:
    cache = ListCache(tmp_path, max_bytes=3000)
    lists = [a_list(position) for position in range(6)]
    for position, (digest, data) in enumerate(lists):
        cache.put(digest, data)
        path = tmp_path / f"{digest}.parquet"
        os.utime(path, ns=(position, position))  # a clock that stands still would leave the order open
        assert cache.get(digest) == data
    assert [cache.get(digest) is not None for digest, _ in lists] == [False, False, False, True, True, True]
    os.utime(tmp_path / f"{lists[5][0]}.parquet", (0, 0))
    future = time.time() + 1e6  # files of a machine whose clock runs ahead
    for digest, _ in lists[3:]:
        os.utime(tmp_path / f"{digest}.parquet", (future, future))
    digest, data = a_list(7)
    cache.put(digest, data)
    assert cache.get(digest) == data, "what was just written is not the one to drop"


def test_what_a_killed_process_left_half_written_counts_and_goes(tmp_path: Path) -> None:
    for position in range(5):
        half = tmp_path / f".list-{position}.parquet"
        half.write_bytes(b"x" * 1000)
        os.utime(half, (position, position))
    cache = ListCache(tmp_path, max_bytes=3000)
    cache.put(*a_list(0))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 3000
    assert cache.get(a_list(0)[0]) is not None


def a_rank(folder: Path, rank: int, failures: multiprocessing.SimpleQueue[str]) -> None:
    cache = ListCache(folder, max_bytes=5000)
    for turn in range(150):
        digest, data = a_list((turn * (rank + 1)) % 11)
        found = cache.get(digest)
        if found is not None and found != data:
            failures.put(f"rank {rank} got another list at turn {turn}")
        if found is None:
            cache.put(digest, data)


def test_several_ranks_may_use_one_folder_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    failures = fork.SimpleQueue()
    ranks = [fork.Process(target=a_rank, args=(tmp_path, rank, failures)) for rank in range(NUM_RANKS)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0] * NUM_RANKS
    assert failures.empty()
    cache = ListCache(tmp_path, max_bytes=5000)
    cache.put(*a_list(99))
    kept = list(tmp_path.iterdir())
    assert sum(path.stat().st_size for path in kept) <= 5000
    assert all(sha256(path.read_bytes()).hexdigest() == path.stem for path in kept)


def test_a_full_disk_is_said_once_and_the_trainer_goes_on(
    service: FakeService, open_log: OpenLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RLIMIT_FSIZE makes each write fail like a full disk does: half a file, then an OSError."""
    service.publish_all(5)
    whole = rest_of(open_log())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    caplog.set_level(logging.WARNING, logger="superbatch")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        found = rest_of(open_log(cache_dir=tmp_path / "full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert found == whole
    assert [record.message.count("cannot be kept") for record in caplog.records] == [1]
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize("trouble", ["a file in its place", "gone meanwhile", "a folder in a list's place"])
def test_a_folder_that_cannot_be_used_stops_nobody(
    service: FakeService, open_log: OpenLog, tmp_path: Path, trouble: str
) -> None:
    service.publish_all(3)
    whole, folder = rest_of(open_log()), tmp_path / "cache"
    log = open_log(cache_dir=folder, lists_ahead=1)
    if trouble == "a file in its place":
        folder.write_bytes(b"")
    elif trouble == "a folder in a list's place":
        (folder / f"{service.segments[1].sha256}.parquet").mkdir(parents=True)
    first = [(batch.seq, batch.rows.column("uid").to_pylist(), batch.log_digest) for batch in [next(log)]]
    if trouble == "gone meanwhile":
        shutil.rmtree(folder)
    assert first + rest_of(log) == whole
