"""A file of which only some blocks are there reads like the whole one."""

from __future__ import annotations

import io
import random

import pytest

from superbatch.reading.ranges import ByteRange
from superbatch.reading.sparse_file import SparseFile

CONTENT = random.Random(5).randbytes(1000)


class Fetched:
    """Remembers what was fetched."""

    def __init__(self) -> None:
        self.ranges: list[ByteRange] = []

    def __call__(self, wanted: ByteRange) -> bytes:
        self.ranges.append(wanted)
        return CONTENT[wanted.offset : wanted.offset + wanted.length]


def test_what_is_there_is_not_fetched_and_the_rest_is() -> None:
    fetch = Fetched()
    file = SparseFile(len(CONTENT), [(900, CONTENT[900:]), (100, CONTENT[100:200])], fetch=fetch)
    assert file.seek(120) == 120
    assert file.read(50) == CONTENT[120:170]
    assert file.seek(-50, io.SEEK_END) == 950
    assert file.read() == CONTENT[950:]
    assert fetch.ranges == []
    file.seek(190)
    assert file.read(20) == CONTENT[190:210], "it reaches beyond the block"
    assert fetch.ranges == [(190, 20)]


@pytest.mark.parametrize("buffer_size", [1, 7, 64, 4096])
def test_a_buffered_reader_over_it_reads_any_part_whole(buffer_size: int) -> None:
    blocks = [(0, CONTENT[:10]), (500, CONTENT[500:600])]
    file = io.BufferedReader(SparseFile(len(CONTENT), blocks, fetch=Fetched()), buffer_size=buffer_size)
    generator = random.Random(7)
    for _ in range(50):
        offset, length = generator.randrange(1100), generator.randrange(300)
        file.seek(offset)
        assert file.read(length) == CONTENT[offset : offset + length]
    file.seek(0)
    assert file.read() == CONTENT


def test_readinto_fills_a_buffer_of_wider_items_and_stops_at_the_end() -> None:
    file = SparseFile(10, (), fetch=Fetched())
    wide = memoryview(bytearray(16)).cast("Q")
    assert file.readinto(wide) == 10
    assert bytes(wide)[:10] == CONTENT[:10]
    assert file.readinto(bytearray(4)) == 0
