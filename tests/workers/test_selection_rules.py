"""Jobs with another loss, a repetition cap, near-copies kept apart, or hard negatives: what they publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.score_shard import read_score_shard
from superbatch_server.storage.store import open_store
from superbatch_server.workers.attempt import find_needs, settle_numerics
from superbatch_server.workers.candidates import CandidateTables
from superbatch_server.workers.compose import BatchNotFilled
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings

from .fakes import FakeService, Killed, attempt, bundle_of, published, spec_of
from .test_pipeline import PUSHED, MoreWorlds, pushing
from .world import World

CAPPED = {"loss": "softmax", "repetition_cap": 2}
"""At f = 0.6 a job of 16 batches of 8 chooses 128 of 111 rows: some row comes to the cap."""

NEAR = 0.99
"""A cosine that many pairs of images reach under the random reference."""


def batches(world: World, service: FakeService) -> list[pa.RecordBatch]:
    found = []
    for commit in service.commits:
        reader = BatchListReader(world.folder / "store" / commit.list_key)
        found += [reader.read(position) for position in range(reader.num_batches)]
    return found


def times_chosen(world: World, service: FakeService) -> Counter[bytes]:
    return Counter(uid for batch in batches(world, service) for uid in batch.column("uid").to_pylist())


def test_no_example_is_chosen_more_often_than_the_cap_and_candidates_at_it_are_counted(world: World) -> None:
    free = FakeService(spec_of(num_batches=16, selection={"loss": "softmax"}))
    attempt(world, free)
    assert max(times_chosen(world, free).values()) > 2, "the cap has something to do"
    lists = {"batches_per_list": 3}
    service = FakeService(spec_of(num_batches=16, selection=CAPPED, lists=lists), cache=free.cache)
    attempt(world, service, token=2)
    assert max(times_chosen(world, service).values()) == 2

    before: Counter[bytes] = Counter()
    num_at_cap = 0
    score_keys = [key for commit in service.commits for key in commit.score_keys]
    for score_key, batch in zip(score_keys, batches(world, service), strict=True):
        scores = read_score_shard(world.folder / "store" / score_key).rows.to_pylist()
        at_cap = [row for row in scores if before[row["uid"]] == 2]
        assert [row for row in scores if row["perturbed_score"] == -np.inf] == at_cap
        num_at_cap += len(at_cap)
        before.update(batch.column("uid").to_pylist())
    counts = [count for commit in service.commits for count in commit.stats.per_source.values()]
    assert sum(count.capped for count in counts) == num_at_cap > 0


@pytest.mark.parametrize(("moment", "L"), [("schedule", 2), ("commit", 1), ("committed", 2)])
def test_a_kill_at_any_call_changes_no_byte_under_a_cap(
    world: World, more_worlds: MoreWorlds, moment: str, L: int
) -> None:
    spec = spec_of(num_batches=10, lists={"batches_per_list": L}, selection={**CAPPED, "repetition_cap": 1, "f": 0.8})
    undisturbed = FakeService(spec)
    attempt(world, undisturbed)
    assert set(times_chosen(world, undisturbed).values()) == {1}
    other, killed = more_worlds("other"), FakeService(spec)
    kills = 0
    for token in range(1, 30):
        calls: list[str] = []

        def kill_later(name: str, body: object, calls: list[str] = calls) -> None:
            calls.append(name)
            if calls.count(moment) > 2:  # each attempt publishes a little and dies
                raise Killed

        killed.on_call = kill_later
        try:
            attempt(other, killed, token=token)
            break
        except Killed:
            kills += 1
    assert kills >= 1
    assert published(other, killed) == published(world, undisturbed)


def test_a_replay_under_a_cap_gives_the_same_bytes(world: World, more_worlds: MoreWorlds) -> None:
    world.checkpoint("c1", seed=5)
    selection = {**CAPPED, "repetition_cap": 1, "max_cosine": 0.999}
    spec = spec_of(**PUSHED, refresh={"max_staleness": 9}, num_batches=6, selection=selection)
    service = FakeService(spec, trainer=pushing(world, {2: "c1"}))
    assert attempt(world, service) == "published"
    assert {commit.rule for commit in service.commits} == {"easy_reference", "checkpoint"}
    replay = {"max_staleness": 9, "replay": "job_fedcba9876543210"}
    again = FakeService(
        spec_of(**PUSHED, refresh=replay, num_batches=6, selection=selection),
        replay=service.published_rows(),
        scheduled_checkpoints=service.checkpoints,
    )
    other = more_worlds("replay")
    other.checkpoint("c1", seed=5)
    attempt(other, again)
    assert published(other, again) == published(world, service)


def test_a_cap_that_leaves_too_few_fails_the_job_with_the_counts(world: World) -> None:
    service = FakeService(spec_of(num_batches=14, selection={"repetition_cap": 1, "f": 0.5}))
    with pytest.raises(BatchNotFilled, match=r"b = 8 needs at least 8 candidates; got \d of 16 .*by repetition_cap"):
        attempt(world, service)
    chosen = times_chosen(world, service)
    assert set(chosen.values()) == {1}
    assert len(chosen) == 8 * len(service.commits) > 111 * 0.3


def test_near_copies_are_kept_apart_by_the_reference_under_every_rule(world: World) -> None:
    world.checkpoint("c1", seed=5)
    refresh = {"max_staleness": 3, "before_first": "uniform"}
    free = FakeService(spec_of(**PUSHED, refresh=refresh, num_batches=8), trainer=lambda service: 8)
    attempt(world, free)
    assert max(largest_cosine(world, free, batch) for batch in batches(world, free)) >= NEAR, "the rule has work to do"

    spec = spec_of(**PUSHED, refresh=refresh, num_batches=8, selection={"max_cosine": NEAR})
    service = FakeService(spec, cache=free.cache, trainer=pushing(world, {3: "c1"}))
    attempt(world, service, token=2)
    assert {commit.rule for commit in service.commits} == {"uniform", "checkpoint"}
    for batch in batches(world, service):
        assert largest_cosine(world, service, batch) < NEAR
        assert batch.column("loss_reference").null_count == 0, "its embeddings were read"


def test_without_a_reference_the_learner_tells_near_copies(world: World) -> None:
    changes = {"reference": None, "num_batches": 3}
    criterion = {"criterion": "hard_learner"}
    free = FakeService(spec_of(**changes, selection=criterion))
    attempt(world, free)
    service = FakeService(spec_of(**changes, selection={**criterion, "max_cosine": 0.9}), cache=free.cache)
    attempt(world, service, token=2)
    assert published(world, service) != published(world, free)
    scores = read_score_shard(world.folder / "store" / service.commits[0].score_keys[0]).rows
    assert -np.inf in scores.column("perturbed_score").to_pylist()


class NoLearner(InProcessExecutor):
    """Has no learner to ask."""

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        raise AssertionError("no learner is needed")


def test_hard_negatives_need_a_reference_and_no_learner(world: World) -> None:
    selection = {"method": "hard_negatives", "max_cosine": NEAR}
    service = FakeService(spec_of(learner=None, num_batches=3, selection=selection))
    assert attempt(world, service, make_executor=NoLearner) == "published"
    assert {row.rule for row in service.published_rows()} == {"no_learner"}
    uniform = FakeService(spec_of(learner=None, num_batches=3, selection={"method": "uniform"}), cache=service.cache)
    attempt(world, uniform, token=2)
    for batch, drawn in zip(batches(world, service), batches(world, uniform), strict=True):
        assert largest_cosine(world, service, batch) < NEAR
        assert set(batch.column("chunk").to_pylist()) == {1, 2, 3, 4}
        assert batch.column("loss_learner").null_count == 8
        assert batch.column("uid") != drawn.column("uid")


def test_a_schedule_goes_from_hard_negatives_to_a_criterion(world: World) -> None:
    method = {"points": [[0, "hard_negatives"], [2, "joint"]]}
    service = FakeService(spec_of(num_batches=4, selection={"method": method, "max_cosine": NEAR}))
    attempt(world, service)
    assert [row.rule for row in service.published_rows()] == ["no_learner", "no_learner", "fixed", "fixed"]
    nulls = [batch.column("loss_learner").null_count for batch in batches(world, service)]
    assert nulls == [8, 8, 0, 0]


def largest_cosine(world: World, service: FakeService, batch: pa.RecordBatch) -> float:
    """The largest cosine of two images of a batch under the reference, from the embeddings that the pass left."""
    bundle = bundle_of(world, service)
    needs = find_needs(bundle, service, settle_numerics(bundle, service), folder=world.folder / "scratch" / "look")
    pool = Pool(bundle.shards, open_store(bundle.runtime.store_url))
    for delivery in needs.plan.ready:
        pool.deliver(*delivery)
    tables = CandidateTables(bundle.shards, pool, root=bundle.manifest.root)
    image_bD = tables.reference(batch.column("dataset_index").to_numpy()).image
    cosine_bb = image_bD @ image_bD.T
    return float(cosine_bb[~np.eye(len(image_bD), dtype=bool)].max())
