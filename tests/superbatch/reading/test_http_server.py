"""HTTP ranges: what servers do wrong is noticed, tried again, and in the end an error that names the row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from superbatch.formats.errors import DigestMismatch, InvalidInput, UnreadableExample
from superbatch.reading import ExampleReader
from superbatch.reading.http_server import HttpServer
from superbatch.reading.ranges import ByteRange
from tests.superbatch.reading.range_server import RangeServer, serving
from tests.superbatch.reading.shard_files import Shards, write_jsonl, write_tars

PAIRS = [[(bytes([shard, number]) * 500, f"caption {shard} {number}") for number in range(4)] for shard in range(2)]
FAULTS = ["drop", "500", "503", "404", "whole", "other", "gzip", "nameless", "longer", "cut"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path) -> Shards:
    return write_tars(tmp_path, PAIRS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again(fault: str, server: RangeServer, world: Shards) -> None:
    server.faults = [fault, fault]
    pauses: list[float] = []
    reader = ExampleReader({"pool": server.url}, sleep=pauses.append, num_threads=1)
    examples = reader.read_rows(world.batch([5, 1]), world.table)
    assert [(example.a, example.b) for example in examples] == world.wanted([5, 1])
    assert len(pauses) == 2
    reader.close()


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("whole", "ignores Range"),
        ("500", "answered 500"),
        ("gzip", "Content-Encoding gzip"),
        ("drop", "Protocol"),
        ("longer", "more than the"),
    ],
)
def test_a_lasting_fault_names_the_row(fault: str, problem: str, server: RangeServer, world: Shards) -> None:
    server.fault_always = fault
    reader = ExampleReader({"pool": server.url + "/?secret=1"}, sleep=lambda _: None, num_attempts=2)
    with pytest.raises(UnreadableExample, match=rf"{problem}.*row 5, shard 1, pool:tars/000001\.tar, 2 tries") as found:
        reader.read_rows(world.batch([5]), world.table)
    assert "secret" not in str(found.value)
    reader.close()


def test_a_server_that_ignores_range_does_not_get_to_send_the_file(server: RangeServer, world: Shards) -> None:
    (server.folder / "large").write_bytes(b"x" * (8 << 20))
    server.fault_always = "whole"
    source = HttpServer(server.url)
    with pytest.raises(OSError, match="status 200 instead of 206"):
        source.read_ranges("large", [ByteRange(5, 10)])
    (server.folder / "small").write_bytes(b"ten bytes!")
    assert source.read_ranges("small", [ByteRange(0, 10)]).parts == [b"ten bytes!"]  # the whole file was wanted
    with pytest.raises(OSError, match="status 200 instead of 206"):
        source.read_ranges("small", [ByteRange(1, 9)])
    source.close()


def test_the_end_of_a_file_is_noticed(server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")
    source = HttpServer(server.url)
    assert source.read_tail("ten", 4) == ([b"6789"], 10, '"one"')
    assert source.read_tail("ten", 40).parts == [b"0123456789"]
    assert source.read_tail("empty", 40) == ([b""], 0, "")
    assert source.read_ranges("ten", [ByteRange(3, 0), ByteRange(8, 2)]).parts == [b"", b"89"]
    with pytest.raises(OSError, match="ends before byte 11"):
        source.read_ranges("ten", [ByteRange(8, 3)])
    with pytest.raises(OSError, match="416"):
        source.read_ranges("ten", [ByteRange(10, 1)])
    source.close()


def test_headers_query_and_odd_names_reach_the_server(server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "a b#%").write_bytes(b"odd")
    source = HttpServer(server.url + "/?token=t", headers={"Authorization": "Bearer b"})
    assert source.read_ranges("a b#%", [ByteRange(1, 2)]).parts == [b"dd"]
    assert server.requests == [("/a%20b%23%25?token=t", "bytes=1-2", "Bearer b", "identity")]
    with pytest.raises(InvalidInput, match="relative path"):
        source.read_ranges("../secret", [ByteRange(1, 2)])
    source.close()
    for url in ("ftp://host/", "http://", "host/path"):
        with pytest.raises(InvalidInput, match="http or https address"):
            HttpServer(url)


def test_near_rows_are_one_request_and_far_runs_go_side_by_side(server: RangeServer, world: Shards) -> None:
    reader = ExampleReader({"pool": server.url})
    reader.read_rows(world.batch([0, 3, 1, 6]), world.table)
    assert len(server.requests) == 2
    reader.read_rows(world.batch([0, 3]), world.table)
    assert len(server.requests) == 3
    reader.close()


def test_files_of_jsonl_rows_come_by_http(server: RangeServer, tmp_path: Path) -> None:
    world = write_jsonl(tmp_path, PAIRS)
    reader = ExampleReader({"pool": server.url})
    assert [example.a for example in reader.read_rows(world.batch([6, 2]), world.table)] == [
        a for a, _ in world.wanted([6, 2])
    ]
    reader.close()


def test_a_file_replaced_while_it_is_read_has_its_uids_checked(server: RangeServer, world: Shards) -> None:
    reader = ExampleReader({"pool": server.url})
    reader.read_rows(world.batch([0]), world.table)
    server.etag = '"two"'
    assert len(reader.read_rows(world.batch([1]), world.table)) == 1  # touched, not changed
    path = server.folder / "tars" / "000000.tar"
    path.write_bytes(path.read_bytes().replace(bytes([0, 2]) * 5, bytes([0, 9]) * 5, 1))
    with pytest.raises(DigestMismatch, match=r"row 2, shard 0"):
        reader.read_rows(world.batch([2]), world.table)
    reader.close()
