"""How often an example was chosen: against a Counter, and read again from a published log."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.errors import DigestMismatch
from superbatch_server.schemas.errors import ObjectMissing
from superbatch_server.storage.store import open_store
from superbatch_server.workers.byte_rows import byte_rows
from superbatch_server.workers.times_chosen import TimesChosen, read_times_chosen

from .fakes import ID, FakeService, attempt, published, spec_of
from .world import World

PREFIX = f"jobs/job_{ID}/hist"
UIDS = np.random.default_rng(1).integers(0, 256, (30, 16), dtype=np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=12), max_size=6))
def test_counts_are_those_of_a_counter(batches: list[list[int]]) -> None:
    counts, expected = TimesChosen(), Counter[int]()
    for batch in batches:
        counts.add(UIDS[batch])
        expected.update(batch)
    assert counts.of(UIDS).tolist() == [expected[i] for i in range(30)]
    assert counts.of(UIDS[:0]).tolist() == []


def test_examples_that_share_the_bytes_they_are_told_apart_by_share_a_count() -> None:
    twins = UIDS[:2].copy()
    twins[1, :8] = twins[0, :8]
    counts = TimesChosen()
    counts.add(twins)
    assert counts.of(twins).tolist() == [2, 2], "too many is the safe side of a cap"


def test_the_published_log_gives_the_counts_of_its_lists(world: World) -> None:
    service = FakeService(spec_of(num_batches=11, lists={"batches_per_list": 4}))
    attempt(world, service)
    store = open_store(str(world.folder / "store"))
    expected, uids = Counter[bytes](), np.empty((0, 16), dtype=np.uint8)
    for stop_seq, commit in zip((4, 8, 11), service.commits, strict=True):
        reader = BatchListReader(store.get(commit.list_key))
        for position in range(reader.num_batches):
            rows = reader.read(position).column("uid")
            expected.update(rows.to_pylist())
            uids = np.concatenate([uids, byte_rows(rows)])
        counts = read_times_chosen(store, prefix=PREFIX, stop_seq=stop_seq)
        assert counts.of(uids).tolist() == [expected[uid.tobytes()] for uid in uids]
    assert read_times_chosen(store, prefix=PREFIX, stop_seq=0).of(uids).sum() == 0
    assert max(expected.values()) > 1, "or the test would not tell counts from marks"


def test_a_log_that_is_not_whole_is_refused(world: World) -> None:
    service = FakeService(spec_of(num_batches=2))
    attempt(world, service)
    assert len(published(world, service)) == 2
    folder = world.folder / "store"
    store = open_store(str(folder))
    path = folder / service.commits[1].list_key
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DigestMismatch, match="first_seq 1"):
        read_times_chosen(store, prefix=PREFIX, stop_seq=2)
    (folder / PREFIX / "log" / "000000000000.json").unlink()
    with pytest.raises(ObjectMissing, match="000000000000"):
        read_times_chosen(store, prefix=PREFIX, stop_seq=2)
