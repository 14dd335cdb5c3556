"""What a later attempt keeps of an earlier one: rows, positions, segments; and what fails without blaming a model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest

from superbatch.formats.score_shard import read_score_shard
from superbatch_server.schemas.attempts import RefreshState, ScheduleRow, WalkPosition
from superbatch_server.storage.store import open_store
from superbatch_server.workers.attempt import find_needs, settle_numerics
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.model_files import EncoderFiles, model_files
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings, RowScorer, ScoringFailed
from superbatch_server.workers.schedule import ScheduleBook

from .fakes import FakeService, Killed, attempt, bundle_of, published, spec_of
from .test_pipeline import PUSHED, MoreWorlds, pushing
from .world import World


def test_a_restart_within_a_list_uses_the_recorded_rows_and_not_a_checkpoint_that_came_meanwhile(
    world: World, more_worlds: MoreWorlds
) -> None:
    changes = {"num_batches": 8, "lists": {"batches_per_list": 2}}
    service = FakeService(spec_of(**PUSHED, refresh={"max_staleness": 6}, **changes), trainer=lambda s: s.next_seq)

    def kill_at_the_second_list(name: str, body: object) -> None:
        if name == "commit" and service.next_seq == 2:
            raise Killed

    service.on_call = kill_at_the_second_list
    with pytest.raises(Killed):
        attempt(world, service)
    recorded = dict(service.rows)
    assert {2, 3, 4} <= {seq for seq, _ in recorded}, "the list in flight, and the super-batch ahead of it"

    world.checkpoint("c1", seed=5)
    service.push("c1", world.file("weights", "c1/model.safetensors"), trained_seq=2)
    service.on_call = lambda name, body: None
    assert attempt(world, service, token=2) == "published"
    assert {key: service.rows[key] for key in recorded} == recorded
    assert {row.row_attempt for row in service.published_rows()} == {0}
    rules = [row.rule for row in service.published_rows()]
    assert rules == ["easy_reference"] * len(recorded) + ["checkpoint"] * (8 - len(recorded))

    replay = {"max_staleness": 6, "replay": "job_fedcba9876543210"}
    again = FakeService(
        spec_of(**PUSHED, refresh=replay, **changes),
        replay=service.published_rows(),
        scheduled_checkpoints=service.checkpoints,
    )
    other = more_worlds("undisturbed")
    other.checkpoint("c1", seed=5)
    attempt(other, again)
    assert published(other, again) == published(world, service)


def test_a_job_released_between_lists_goes_on_with_the_candidates_that_follow(
    world: World, more_worlds: MoreWorlds
) -> None:
    changes = {"num_batches": 8, "lists": {"batches_per_list": 2}}
    paused = FakeService(spec_of(**PUSHED, refresh={"max_staleness": 2}, **changes))
    releases = 0
    for token in range(1, 10):
        trained_seq = paused.next_seq
        paused.trainer = lambda service, trained_seq=trained_seq: trained_seq  # nothing moves during an attempt
        if attempt(world, paused, token=token) == "published":
            break
        releases += 1
    assert releases == 3
    other = more_worlds("undisturbed")
    straight = FakeService(spec_of(**PUSHED, refresh={"max_staleness": 2}, **changes), trainer=lambda s: s.next_seq)
    attempt(other, straight)
    assert candidates_of(world, paused) == candidates_of(other, straight)


def candidates_of(world: World, service: FakeService) -> list[list[int]]:
    keys = [key for commit in service.commits for key in commit.score_keys]
    return [read_score_shard(world.folder / "store" / key).rows.column("dataset_index").to_pylist() for key in keys]


class SlowerThanAnother:
    """A recorder that already holds a row for every seq."""

    def __init__(self) -> None:
        self.first: dict[tuple[int, int], ScheduleRow] = {}

    def record_schedule(self, row: ScheduleRow) -> ScheduleRow:
        earlier = row.model_copy(update={"walk": WalkPosition(pass_index=7)})
        return self.first.setdefault((row.seq, row.row_attempt), earlier)


def test_the_row_recorded_first_is_the_one_that_is_used(world: World) -> None:
    recorder = SlowerThanAnother()
    book = ScheduleBook(bundle_of(world, FakeService(spec_of())), recorder, micro_batch=4)
    nothing = RefreshState(consumer_trained_seq=0, consumer_live=True, active=None, unverified=None)
    row = book.decide(3, WalkPosition(), nothing)
    assert row == book.recorded(3) == recorder.first[(3, 0)]


def test_a_segment_names_the_oldest_scores_of_its_batches(world: World) -> None:
    world.checkpoint("c1", seed=5)
    refresh = {"max_staleness": 2, "on_stale": "uniform"}
    spec = spec_of(**PUSHED, refresh=refresh, num_batches=4, lists={"batches_per_list": 2})
    service = FakeService(spec, trainer=pushing(world, {1: "c1"}))
    attempt(world, service)
    assert [row.rule for row in service.published_rows()] == ["easy_reference"] * 2 + ["checkpoint", "uniform"]
    last = service.commits[-1]
    assert (last.rule, last.checkpoint, last.generation) == ("uniform", None, 0)


class StorageAway(InProcessExecutor):
    """Cannot fetch any checkpoint."""

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        raise ScoringFailed("storage", "unavailable", "the store does not answer")


@pytest.mark.parametrize("num_fixed_rows", [0, 256])
def test_a_storage_that_is_away_rejects_no_checkpoint(world: World, num_fixed_rows: int) -> None:
    world.checkpoint("c1", seed=5)
    spec = spec_of(**PUSHED, refresh={"max_staleness": 100}, num_batches=4)
    service = FakeService(spec, trainer=pushing(world, {0: "c1"}))
    with pytest.raises(ScoringFailed, match="does not answer"):
        attempt(world, service, make_executor=StorageAway, num_fixed_rows=num_fixed_rows)
    assert [c.state for c in service.checkpoints] == ["ACTIVE" if num_fixed_rows == 0 else "RECEIVED"]


def test_a_machine_that_cannot_keep_a_file_is_no_fault_of_the_model(world: World) -> None:
    full = world.folder / "full"
    full.write_bytes(b"")  # a file where the folder for models should be
    scorer = RowScorer(replace(world.settings(), scratch=str(full)))
    found = scorer.embed(model_files(world.model("learner")), [], 4)
    assert isinstance(found, ScoringFailed)
    assert (found.cause, found.error_code) == ("storage", "unavailable")


def test_the_fixed_rows_are_the_same_whatever_is_delivered_first(world: World) -> None:
    service = FakeService(spec_of(num_batches=1))
    attempt(world, service)
    bundle = bundle_of(world, service)
    needs = find_needs(bundle, service, settle_numerics(bundle, service), folder=world.folder / "scratch" / "again")
    order = [shard_id for shard_id, _, _ in needs.plan.ready]
    found = []
    for deliveries in (needs.plan.ready, needs.plan.ready[::-1]):
        pool, begun = Pool(bundle.shards, open_store(bundle.runtime.store_url)), Event()
        pool.deliver(*deliveries[0])
        with ThreadPoolExecutor(1) as asking:

            def ask(pool: Pool = pool, begun: Event = begun) -> list[int]:
                begun.set()
                return pool.fixed_rows(60, order=order)

            answer = asking.submit(ask)
            begun.wait()
            for delivery in deliveries[1:]:
                pool.deliver(*delivery)
            found.append(answer.result(timeout=10))
    assert found[0] == found[1]
    assert len(found[0]) == 60
