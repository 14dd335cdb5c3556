"""The store: written once, whole or not at all, by whoever comes first."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from superbatch_server.schemas.errors import InvalidRequest, ObjectMissing, Unavailable, UnsafeKey
from superbatch_server.storage.store import ArtifactStore, LocalStore, RemoteStore, open_store


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return RemoteStore("memory:///", store=MemoryStore())


def test_the_first_writer_of_a_key_wins_and_nothing_is_replaced(store: ArtifactStore) -> None:
    assert store.put_new("jobs/a/1.json", b"first")
    assert not store.put_new("jobs/a/1.json", b"second")
    assert store.get("jobs/a/1.json") == b"first"


def test_ranges_are_half_open_and_cut_at_the_end(store: ArtifactStore) -> None:
    store.put_new("x", b"0123456789")
    assert store.get_range("x", 2, 5) == b"234"
    assert store.get_range("x", 8, 100) == b"89"
    assert store.get_range("x", 10, 20) == b""
    assert store.get_range("x", 3, 3) == b""
    with pytest.raises(InvalidRequest, match=r"\[5, 2\)"):
        store.get_range("x", 5, 2)


def test_size_and_existence(store: ArtifactStore) -> None:
    assert not store.exists("x")
    store.put_new("x", b"")
    assert store.exists("x")
    assert store.size("x") == 0
    assert store.get("x") == b""


def test_a_missing_object_is_told_as_such(store: ArtifactStore) -> None:
    for ask in (store.get, store.size, *([store.local_path] if isinstance(store, LocalStore) else [])):
        with pytest.raises(ObjectMissing, match="nothing"):
            ask("nothing")
    with pytest.raises(ObjectMissing):
        store.get_range("nothing", 0, 1)


def test_a_key_cannot_leave_the_store(store: ArtifactStore) -> None:
    for key in ("../x", "/x", "a//b"):
        with pytest.raises(UnsafeKey):
            store.put_new(key, b"")
        with pytest.raises(UnsafeKey):
            store.exists(key)


def test_a_local_object_has_a_path_and_no_partial_file_stays(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    store.put_new("a/b/c", b"1")
    store.put_new("a/b/c", b"2")
    assert store.local_path("a/b/c") == tmp_path / "store/a/b/c"
    assert not list((tmp_path / "store/.partial").iterdir())


def test_everything_is_on_disk_before_put_new_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store = open_store(str(tmp_path))
    store.put_new("a/b/c", b"1")
    contents = [path for path in synced if ".partial" in path]
    assert len(contents) == 1
    folders = [path for path in synced if path not in contents]
    assert folders == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")]
    synced.clear()
    store.put_new("a/b/c", b"2")
    assert synced == [str(tmp_path / "a/b")], "the loser relies on the winner's file, so it must be durable for both"


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "a").write_bytes(b"a file where a folder is needed")
    with pytest.raises(Unavailable, match="must be writable"):
        store.put_new("a/b", b"")


def test_of_racing_threads_one_wins_and_readers_see_whole_objects(store: ArtifactStore) -> None:
    names = [f"race/{number}" for number in range(20)]
    wins: list[tuple[str, int]] = []
    gate = threading.Barrier(4)

    def write(writer: int) -> None:
        gate.wait()
        for name in names:
            if store.put_new(name, bytes([writer]) * 10_000):
                wins.append((name, writer))
            assert len(store.get(name)) == 10_000

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, _ in wins) == sorted(names)
    assert all(store.get(name)[0] == writer for name, writer in wins)


def _write_all(folder: str, writer: int, results: multiprocessing.Queue[list[str]]) -> None:
    store = open_store(folder)
    results.put([name for name in map(str, range(50)) if store.put_new(name, bytes([writer]))])


def test_of_racing_processes_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    writers = [context.Process(target=_write_all, args=(str(tmp_path), writer, results)) for writer in range(3)]
    for process in writers:
        process.start()
    wins = [results.get(timeout=60) for _ in writers]
    for process in writers:
        process.join()
    assert sorted(name for won in wins for name in won) == sorted(map(str, range(50)))


def test_a_listing_has_every_object_and_removal_takes_the_named_ones(store: ArtifactStore) -> None:
    for key in ("a/1", "a/b/2", "c"):
        store.put_new(key, key.encode() * 3)
    found = {file.key: file for page in store.pages() for file in page}
    assert {key: file.size_bytes for key, file in found.items()} == {"a/1": 9, "a/b/2": 15, "c": 3}
    assert all(abs(file.written_s - time.time()) < 600 for file in found.values())
    store.remove(["a/b/2", "c", "never/was"])
    assert [file.key for page in store.pages() for file in page] == ["a/1"]
    store.remove([])
    for key in ("../x", "/x"):
        with pytest.raises(UnsafeKey):
            store.remove([key])


def test_a_writer_whose_folder_was_removed_as_empty_makes_it_again(tmp_path: Path) -> None:
    writer, collector = open_store(str(tmp_path)), open_store(str(tmp_path))
    assert writer.put_new("a/b/1", b"1")
    collector.remove(["a/b/1"])
    assert not (tmp_path / "a").exists()
    assert writer.put_new("a/b/2", b"2")
    assert writer.get("a/b/2") == b"2"
    assert (tmp_path / ".partial").is_dir()
