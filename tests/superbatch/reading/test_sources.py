"""Sources: many reads at once and no more than allowed, back-off, exact blame, processes."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from superbatch.formats.errors import InvalidInput, UnreadableExample
from superbatch.formats.shards import ShardTable
from superbatch.reading import ExampleReader
from superbatch.reading.addresses import open_source
from superbatch.reading.http_server import HttpServer
from superbatch.reading.local_files import LocalFiles
from superbatch.reading.object_store import ObjectStore
from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import Answer
from tests.superbatch.reading.failing_source import FailingSource
from tests.superbatch.reading.range_server import serving
from tests.superbatch.reading.shard_files import Shards, write_parquet, write_tars

PAIRS = [[(bytes([shard, number]) * 300, f"caption {shard} {number}") for number in range(6)] for shard in range(4)]
EVERYTHING = list(range(24))


class WaitingSource(FailingSource):
    """A remote source whose reads wait until `expected` of them are under way, and that counts the most there were."""

    def __init__(self, root: Path, *, expected: int) -> None:
        super().__init__(LocalFiles(root), is_remote=True)
        self.barrier, self.lock = Barrier(expected), Lock()
        self.under_way = self.most = 0

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        self.barrier.wait(timeout=60)
        with self.lock:
            self.under_way -= 1
        return super().read_ranges(key, ranges)


class TearingStore(pafs.FileSystemHandler):
    """A local folder as a store of pyarrow whose first `failures` openings fail."""

    def __init__(self, root: Path, *, failures: int) -> None:
        self.inner, self.failures, self.opened = pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem()), failures, 0

    def open_input_file(self, path: str) -> pa.NativeFile:
        self.opened += 1
        if self.opened <= self.failures:
            raise OSError("the store asks to slow down")
        return self.inner.open_input_file(path)


# A reader opens files and does nothing else; pyarrow wants the other methods to exist.
_UNUSED = dict.fromkeys(TearingStore.__abstractmethods__)
FailingStore = type("FailingStore", (TearingStore,), _UNUSED)


def subtree(root: Path) -> ObjectStore:
    return ObjectStore("", filesystem=pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem()))


def contents(reader: ExampleReader, world: Shards, chosen: list[int]) -> list[tuple[bytes, bytes]]:
    return [(example.a, example.b) for example in reader.read_rows(world.batch(chosen), world.table)]


def read_elsewhere(reader: ExampleReader, rows: pa.RecordBatch, table: ShardTable) -> list[tuple[bytes, bytes]]:
    """Read in another process."""
    return [(example.a, example.b) for example in reader.read_rows(rows, table)]


def test_remote_shards_are_read_side_by_side_within_the_bound(tmp_path: Path) -> None:
    world = write_tars(tmp_path, PAIRS)
    source = WaitingSource(tmp_path, expected=4)
    reader = ExampleReader({"pool": source}, num_threads=4, gap_bytes=0)
    assert contents(reader, world, EVERYTHING) == world.wanted(EVERYTHING)
    assert (source.most, source.calls) == (4, 48)
    reader.close()
    alone = WaitingSource(tmp_path, expected=1)
    assert contents(ExampleReader({"pool": alone}, num_threads=1), world, EVERYTHING) == world.wanted(EVERYTHING)
    assert (alone.most, alone.calls) == (1, 4)


def test_local_shards_are_opened_once_a_batch(tmp_path: Path) -> None:
    world = write_tars(tmp_path, PAIRS)
    source = FailingSource(LocalFiles(tmp_path))
    reader = ExampleReader({"pool": source}, gap_bytes=0)
    assert contents(reader, world, EVERYTHING) == world.wanted(EVERYTHING)
    assert source.calls == 4
    assert source.ranges == 48


def test_the_row_at_fault_is_named_among_joined_ones(tmp_path: Path) -> None:
    world = write_tars(tmp_path, PAIRS)
    path = tmp_path / "tars" / "000002.tar"
    place = world.places[15]
    path.write_bytes(path.read_bytes()[: int(str(place["b_offset"])) + 3])
    for root in (tmp_path, subtree(tmp_path)):
        reader = ExampleReader({"pool": root}, sleep=lambda _: None)
        with pytest.raises(UnreadableExample, match=r"ends before byte \d+.*row 15, shard 2, pool:tars/000002\.tar"):
            contents(reader, world, [0, 17, 13, 15, 12])
        reader.close()


def test_an_object_store_opens_an_object_anew_after_a_failure(tmp_path: Path) -> None:
    world = write_tars(tmp_path, PAIRS)
    path = tmp_path / "tars" / "000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])

    def restore(pause_s: float) -> None:
        path.unlink(missing_ok=True)  # what is open goes on to be the old object, as in a bucket
        path.write_bytes(whole)

    reader = ExampleReader({"pool": subtree(tmp_path)}, sleep=restore)
    assert contents(reader, world, [0, 5]) == world.wanted([0, 5])
    reader.close()


def test_a_store_that_fails_at_first_is_tried_again(tmp_path: Path) -> None:
    world, pauses = write_tars(tmp_path, PAIRS), []
    store = FailingStore(tmp_path, failures=2)
    reader = ExampleReader({"pool": ObjectStore("", filesystem=pafs.PyFileSystem(store))}, sleep=pauses.append)
    assert contents(reader, world, [3]) == world.wanted([3])
    assert len(pauses) == 2
    assert contents(reader, world, [0, 4]) == world.wanted([0, 4])
    assert store.opened == 3  # it stayed open
    reader.close()


def test_an_object_store_that_fails_is_an_unreadable_example(tmp_path: Path) -> None:
    world = write_tars(tmp_path, PAIRS)
    reader = ExampleReader({"pool": ObjectStore("s3://nowhere/x?unknown_option=1")}, sleep=lambda _: None)
    with pytest.raises(UnreadableExample, match=r"s3://nowhere/x/tars.*row 3, shard 0") as found:
        contents(reader, world, [3])
    assert "unknown_option=1" not in str(found.value)
    gone = ExampleReader({"pool": subtree(tmp_path / "gone")}, sleep=lambda _: None, num_attempts=1)
    with pytest.raises(UnreadableExample, match=r"row 3, shard 0, pool:tars/000000\.tar, 1 tries"):
        contents(gone, world, [3])


@pytest.mark.parametrize(("context", "kinds"), [("fork", ["http", "store", "threads"]), ("spawn", ["http"])])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_used_reader_goes_into_other_processes(tmp_path: Path, context: str, kinds: list[str]) -> None:
    world = write_parquet(tmp_path, PAIRS)
    rows, table = world.batch(EVERYTHING), world.table
    with serving(tmp_path) as server:
        threads = FailingSource(LocalFiles(tmp_path), is_remote=True)
        roots = {"http": server.url, "store": subtree(tmp_path), "threads": threads}
        for kind in kinds:
            reader = ExampleReader({"pool": roots[kind]}, num_threads=3)
            assert contents(reader, world, EVERYTHING) == world.wanted(EVERYTHING)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(context)) as processes:
                found = processes.submit(read_elsewhere, reader, rows, table)
                assert found.result(timeout=120) == world.wanted(EVERYTHING)
            assert contents(reader, world, EVERYTHING) == world.wanted(EVERYTHING)
            reader.close()


def test_a_pickled_reader_leaves_what_it_holds_behind(tmp_path: Path) -> None:
    world = write_parquet(tmp_path, PAIRS)
    reader = ExampleReader({"pool": tmp_path})
    empty = len(pickle.dumps(reader))
    contents(reader, world, EVERYTHING)
    assert len(pickle.dumps(reader)) < empty + 2000  # names and versions of four shards, no decoded rows


def test_an_address_decides_the_source(tmp_path: Path) -> None:
    for address, kind in (
        (tmp_path, LocalFiles),
        (str(tmp_path), LocalFiles),
        (tmp_path.as_uri(), LocalFiles),
        ("https://host/prefix", HttpServer),
        ("s3://bucket/prefix", ObjectStore),
        ("gs://bucket", ObjectStore),
    ):
        assert isinstance(open_source(address, root="pool"), kind)
    source = FailingSource(LocalFiles(tmp_path))
    assert open_source(source, root="pool") is source
    with pytest.raises(InvalidInput, match=r"got the scheme 'ftp' \(root pool\)"):
        open_source("ftp://host/x", root="pool")
    (tmp_path / "a b").write_bytes(b"text")
    assert open_source(tmp_path.as_uri(), root="pool").read_tail("a b", 2).parts == [b"xt"]


@pytest.mark.parametrize("name", ["num_threads", "num_attempts"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be at least 1; got 0"):
        ExampleReader({}, **{name: 0})  # type: ignore[arg-type]
