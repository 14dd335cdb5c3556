"""docs/trainers/reading.md: its code runs, and it names the reader's options with their values."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

from superbatch.reading import ExampleReader
from superbatch.reading.fetcher import LOCAL_GAP_BYTES, REMOTE_GAP_BYTES, REMOTE_RUN_BYTES
from superbatch.reading.ranges import MAX_RUN_BYTES
from tests.superbatch.reading.shard_files import write_tars

PAGE = (Path(__file__).parents[3] / "docs" / "trainers" / "reading.md").read_text()
LOOP, ROOTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class FakeLog:
    """A log of one batch whose shards lie in a folder."""

    def __init__(self, root: Path) -> None:
        self.world = write_tars(root, [[(b"picture", f"caption {number}") for number in range(4)]])
        self.batches = [SimpleNamespace(slice=self.slice)]

    def __iter__(self) -> object:
        return iter(self.batches)

    def slice(self, rank: int, *, world_size: int) -> object:
        return self.world.batch([3, 1, 2, 0]).slice(2 * rank, 2)

    def shard_table(self) -> object:
        return self.world.table

    def roots(self) -> dict[str, str]:
        return {"pool": "/nowhere"}


def test_the_loop_trains_on_the_rows_of_its_rank(tmp_path: Path) -> None:
    trained: list[tuple[bytes, bytes]] = []
    names = {"log": FakeLog(tmp_path), "rank": 1, "world_size": 2, "train_on": lambda a, b: trained.append((a, b))}
    exec(LOOP.replace("/mnt/pool", str(tmp_path)), names)
    assert trained == [(b"picture", b"caption 2"), (b"picture", b"caption 0")]


def test_sources_of_the_caller_are_taken() -> None:
    names: dict[str, object] = {}
    exec(ROOTS, names)
    assert isinstance(names["reader"], ExampleReader)


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    options = inspect.signature(ExampleReader).parameters
    assert f"`num_threads`\n({options['num_threads'].default})" in PAGE
    assert f"`num_attempts` ({options['num_attempts'].default})" in PAGE
    assert f"`cache_bytes` ({options['cache_bytes'].default >> 20} MiB)" in PAGE
    assert (LOCAL_GAP_BYTES, REMOTE_GAP_BYTES, REMOTE_RUN_BYTES, MAX_RUN_BYTES) == (
        64 << 10,
        512 << 10,
        8 << 20,
        64 << 20,
    )
    for words in (
        "one read: 64 KiB in local",
        "512 KiB elsewhere",
        "at most 8 MiB each",
        "At most 64 MiB",
    ):
        assert words in PAGE
