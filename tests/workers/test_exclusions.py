"""Excluded rows: they come into no batch decided later, nothing is read of them, and a replay leaves out the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch_server.schemas.attempts import SegmentCommit, sum_counts
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings

from .fakes import FakeService, Killed, attempt, published, spec_of
from .test_pipeline import PUSHED, pushing
from .world import ROWS_PER_SHARD, World

MoreWorlds = Callable[[str], World]
REPLAY = {"replay": "job_fedcba9876543210"}


def uids_of(world: World, commit: SegmentCommit) -> set[bytes]:
    reader = BatchListReader(world.folder / "store" / commit.list_key)
    return {uid for i in range(reader.num_batches) for uid in reader.read(i).column("uid").to_pylist()}


def excluding_after(world: World, service: FakeService, seq: int) -> None:
    """Exclude all rows of batch `seq` as soon as it is published."""

    def on_call(name: str, body: object) -> None:
        if name == "committed" and isinstance(body, SegmentCommit) and body.first_seq == seq:
            service.exclude(uids_of(world, body))

    service.on_call = on_call


@pytest.mark.parametrize("updates", ["none", "pushed"])
def test_batches_decided_after_an_exclusion_hold_none_of_its_rows_and_say_so(
    world: World, more_worlds: MoreWorlds, updates: str
) -> None:
    changes = PUSHED | {"refresh": {"max_staleness": 100}} if updates == "pushed" else {}
    spec = spec_of(**changes, num_batches=12)
    undisturbed = FakeService(spec)
    attempt(world, undisturbed)
    other, service = more_worlds("other"), FakeService(spec)
    excluding_after(other, service, 2)
    attempt(other, service)
    assert (
        undisturbed.commits[:3] == service.commits[:3]
        or published(other, service)[:3] == published(world, undisturbed)[:3]
    )
    excluded = uids_of(other, service.commits[2])
    rows = service.published_rows()
    decided_later = [row.seq for row in rows if row.exclusions_digest == service.exclusions_digest]
    assert decided_later == list(range(decided_later[0], 12))
    assert decided_later[0] in (3, 4), "at most the batch that was being scored was decided before"
    assert all(not excluded & uids_of(other, service.commits[seq]) for seq in decided_later)
    assert all(row.exclusions_digest is None for row in rows[: decided_later[0]])
    assert any(excluded & uids_of(world, undisturbed.commits[seq]) for seq in decided_later), "they would have come"
    assert all(sum_counts(c.stats.per_source.values()).candidates == 20 for c in service.commits), "B is kept"


def test_each_batch_leaves_out_the_set_that_its_own_row_names(world: World) -> None:
    service = FakeService(spec_of(num_batches=9))

    def on_call(name: str, body: object) -> None:
        if name == "committed" and isinstance(body, SegmentCommit) and body.first_seq in (1, 4):
            service.exclude(set.union(*(uids_of(world, commit) for commit in service.commits)))

    service.on_call = on_call
    attempt(world, service)
    excluded = {digest: bytes.fromhex(found.uids) for digest, found in service.excluded.items()}
    digests = [row.exclusions_digest for row in service.published_rows()]
    assert len(set(digests)) == 3
    for digest, commit in zip(digests, service.commits, strict=True):
        left_out = excluded.get(digest or "", b"")
        assert not uids_of(world, commit) & {left_out[i : i + 16] for i in range(0, len(left_out), 16)}


def test_a_replay_leaves_out_the_same_rows_and_publishes_the_same_bytes(world: World, more_worlds: MoreWorlds) -> None:
    world.checkpoint("c1", seed=5)
    spec = spec_of(**PUSHED, refresh={"max_staleness": 10}, num_batches=10)
    service = FakeService(spec, trainer=pushing(world, {1: "c1", 5: "c1"}))
    excluding_after(world, service, 4)
    assert attempt(world, service) == "published"
    assert len({row.exclusions_digest for row in service.published_rows()}) == 2
    other = more_worlds("replay")
    other.checkpoint("c1", seed=5)
    again = FakeService(
        spec_of(**PUSHED, refresh={"max_staleness": 10, **REPLAY}, num_batches=10),
        replay=service.published_rows(),
        scheduled_checkpoints=service.checkpoints,
        excluded=service.excluded,
    )
    assert attempt(other, again) == "published"
    assert published(other, again) == published(world, service)


def test_kills_around_an_exclusion_leave_the_bytes_that_its_schedule_gives(
    world: World, more_worlds: MoreWorlds
) -> None:
    spec = spec_of(num_batches=6, lists={"batches_per_list": 2})
    killed, kills = FakeService(spec), 0
    for token in range(1, 30):
        calls: list[str] = []

        def kill_later(name: str, body: object, calls: list[str] = calls, allowed: int = token) -> None:
            calls.append(name)
            if name == "committed" and isinstance(body, SegmentCommit) and body.first_seq == 2:
                killed.exclude(uids_of(world, body))
            if calls.count("schedule") > allowed:
                raise Killed

        killed.on_call = kill_later
        try:
            attempt(world, killed, token=token)
            break
        except Killed:
            kills += 1
    assert kills >= 2
    assert killed.published_rows()[-1].exclusions_digest is not None
    again = FakeService(
        spec_of(num_batches=6, lists={"batches_per_list": 2}, refresh=REPLAY),
        replay=killed.published_rows(),
        excluded=killed.excluded,
    )
    other = more_worlds("replay")
    attempt(other, again)
    assert published(other, again) == published(world, killed)


def test_nothing_is_read_of_an_excluded_row(world: World) -> None:
    service, read = FakeService(spec_of(num_batches=3)), set[bytes]()

    class Noting(InProcessExecutor):
        def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
            read.update(row.uid for row in rows)
            return super().embed_rows(files, rows, micro_batch=micro_batch)

    first = FakeService(spec_of(num_batches=3))
    attempt(world, first)
    excluded = set.union(*(uids_of(world, commit) for commit in first.commits))
    service.exclude(excluded)
    attempt(world, service, make_executor=Noting)
    assert read
    assert not read & excluded


def test_every_row_that_a_pass_leaves_out_is_counted_with_its_source(world: World) -> None:
    first = FakeService(spec_of(num_batches=1))
    attempt(world, first)
    excluded = uids_of(world, first.commits[0])
    listed = BatchListReader(world.folder / "store" / first.commits[0].list_key).read(0).column("dataset_index")
    source_of = [world.shards()[index // ROWS_PER_SHARD].source for index in listed.to_pylist()]

    service = FakeService(spec_of(num_batches=11))
    service.exclude(excluded)
    attempt(world, service, token=2)
    num_passes = service.commits[-1].next_walk.pass_index
    assert num_passes >= 2
    counts = Counter[str]()
    for commit in service.commits:
        counts.update({source: count.excluded for source, count in commit.stats.per_source.items()})
    for source, rows in Counter(source_of).items():
        assert num_passes * rows <= counts[source] <= (num_passes + 1) * rows, source


def test_a_recorded_row_that_begins_elsewhere_is_decided_anew(world: World) -> None:
    """A row recorded ahead begins where the one before it ended, which changes when that one is made anew."""
    service = FakeService(spec_of(num_batches=2))

    def killed_after_second_row(name: str, body: object) -> None:
        if name == "commit":
            raise Killed

    service.on_call = killed_after_second_row
    with pytest.raises(Killed):
        attempt(world, service)
    assert sorted(service.rows) == [(0, 0), (1, 0)]
    stale = service.rows[1, 0]
    service.rows[1, 0] = stale.model_copy(update={"walk": stale.walk.model_copy(update={"offset": 1, "block": 1})})
    service.on_call = lambda name, body: None
    attempt(world, service, token=2)
    assert [row.row_attempt for row in service.published_rows()] == [0, 1]
    assert service.published_rows()[1].walk == service.commits[0].next_walk
