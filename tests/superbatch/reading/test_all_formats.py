"""Every format from every kind of source gives the rows asked for, in their order, with the bytes that were stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.reading import ExampleReader
from superbatch.reading.addresses import Address
from superbatch.reading.local_files import LocalFiles
from superbatch.reading.object_store import ObjectStore
from tests.superbatch.reading.failing_source import FailingSource
from tests.superbatch.reading.range_server import RangeServer, serving
from tests.superbatch.reading.shard_files import Pair, Shards, write_jsonl, write_parquet, write_tars

PAIRS = st.tuples(st.binary(max_size=300), st.text(st.characters(codec="utf-8"), max_size=20))
SHARDS = st.lists(st.lists(PAIRS, min_size=1, max_size=9), min_size=1, max_size=3)
WRITERS: dict[str, Callable[[Path, list[list[Pair]]], Shards]] = {
    "tar": write_tars,
    "hugging-face": write_parquet,
    "wide": lambda root, shards: write_parquet(root, shards, as_struct=False, wide=True, rows_per_group=4),
    "nested": lambda root, shards: write_parquet(root, shards, nested=True, compression="none", page_bytes=64),
    "line": write_jsonl,
    "files": lambda root, shards: write_jsonl(root, shards, caption_files=True),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    with serving(tmp_path_factory.mktemp("served")) as server:
        yield server


def address(kind: str, root: Path, server: RangeServer) -> Address:
    """The folder as a root of this kind."""
    if kind == "http":
        server.folder = root
        return server.url
    if kind == "store":
        return ObjectStore("", filesystem=pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem()))
    if kind == "threads":
        return FailingSource(LocalFiles(root), is_remote=True)
    return root.as_uri() if kind == "file" else root


@pytest.mark.parametrize("writer", WRITERS)
@given(
    shards=SHARDS,
    kind=st.sampled_from(["path", "file", "store", "threads", "http"]),
    bounds=st.fixed_dictionaries(
        {"gap_bytes": st.sampled_from([None, 0, 700]), "cache_bytes": st.sampled_from([0, 400, 1 << 20])}
    ),
    pick=st.randoms(use_true_random=False),
)
@settings(max_examples=20, deadline=None)
def test_rows_are_those_of_a_slow_reader(  # noqa: PLR0917  (hypothesis and pytest give them by name)
    writer: str,
    shards: list[list[Pair]],
    kind: str,
    bounds: dict[str, int],
    pick: Random,
    server: RangeServer,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = WRITERS[writer](Path(folder), shards)
        root = address(kind, Path(folder), server)
        rows = range(len(world.pairs))
        batches = [pick.sample(rows, pick.randint(1, len(rows))) for _ in range(2)]
        reader = ExampleReader({"pool": root}, check_uids=True, num_threads=3, **bounds)  # type: ignore[arg-type]
        with closing(reader):
            for chosen in batches:
                examples = reader.read_rows(world.batch(chosen), world.table)
                assert [(example.a, example.b) for example in examples] == world.wanted(chosen)
                assert [example.dataset_index for example in examples] == chosen


def test_shards_of_several_formats_in_one_batch_keep_their_slots(tmp_path: Path) -> None:
    pairs = [[(bytes([number]) * 9, f"caption {number}") for number in range(4)]]
    parts = [write_parquet(tmp_path, pairs), write_jsonl(tmp_path, pairs, caption_files=True)]
    shards = [replace(part.table.shards[0], shard_id=at, start_index=4 * at) for at, part in enumerate(parts)]
    places = [{**place, "shard_id": at} for at, part in enumerate(parts) for place in part.places]
    table = replace(parts[0].table, shards=tuple(shards))
    world = Shards(tmp_path, table, places, parts[0].pairs + parts[1].pairs)
    chosen = [5, 0, 7, 6, 3, 4]
    examples = ExampleReader({"pool": tmp_path}, check_uids=True).read_rows(world.batch(chosen), table)
    assert [example.dataset_index for example in examples] == chosen
    assert [(example.a, example.b) for example in examples] == world.wanted(chosen)
