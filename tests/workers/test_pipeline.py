"""A whole job in one process: what it publishes, and that nothing but the recorded schedule decides its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.compute as pc
import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.score_shard import read_score_shard
from superbatch_server.schemas.errors import NumericsChanged, ReplayMismatch
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings, ScoringFailed
from superbatch_server.workers.walk import SuperBatchExceedsPool

from .fakes import FakeService, Killed, attempt, bundle_of, published, spec_of
from .world import NUM_SHARDS, QUARANTINED, ROWS_PER_SHARD, World

MoreWorlds = Callable[[str], World]


def test_a_job_publishes_its_batches_once_and_counts_every_row(world: World) -> None:
    service = FakeService(spec_of())
    assert attempt(world, service) == "published"
    assert [commit.first_seq for commit in service.commits] == list(range(6))
    assert service.pool is not None
    assert service.pool.quarantined == QUARANTINED
    assert service.pool.rows == NUM_SHARDS * ROWS_PER_SHARD == service.pool.eligible + 4
    for seq, commit in enumerate(service.commits):
        batch = BatchListReader(world.folder / "store" / commit.list_key).read(0)
        scores = read_score_shard(world.folder / "store" / commit.score_keys[0]).rows
        assert (batch.num_rows, scores.num_rows) == (8, 20)
        assert set(batch.column("batch_seq").to_pylist()) == {seq}
        assert batch.column("loss_learner").null_count == batch.column("loss_reference").null_count == 0
        assert set(batch.column("chunk").to_pylist()) == {1, 2, 3, 4}
        chosen = scores.filter(pc.greater(scores.column("round"), 0))
        assert sorted(chosen.column("uid").to_pylist()) == sorted(batch.column("uid").to_pylist())
        counts = commit.stats.per_source.values()
        assert (sum(c.candidates for c in counts), sum(c.selected for c in counts)) == (20, 8)
        assert commit.stats.learnability_batch[0] > commit.stats.learnability_super_batch[0]


def test_published_rows_lie_where_the_list_says(world: World) -> None:
    service = FakeService(spec_of(num_batches=1))
    attempt(world, service)
    batch = BatchListReader(world.folder / "store" / service.commits[0].list_key).read(0)
    for row in batch.to_pylist():
        shard = world.shards()[row["shard_id"]]
        data = (world.folder / "data" / shard.key).read_bytes()
        assert data[row["a_offset"] :].startswith(b"\x89PNG")
        assert len(data[row["b_offset"] :][: row["b_length"]].decode().split()) in (1, 3)
        assert row["dataset_index"] == shard.start_index + row["sample_index"]
        assert row["key"] == f"{row['sample_index']:03d}"


def test_lists_hold_as_many_batches_as_asked_and_only_the_last_is_short(world: World) -> None:
    service = FakeService(spec_of(num_batches=5, lists={"batches_per_list": 2}))
    attempt(world, service)
    assert [(c.first_seq, c.num_batches) for c in service.commits] == [(0, 2), (2, 2), (4, 1)]
    reader = BatchListReader(world.folder / "store" / service.commits[1].list_key)
    assert [reader.read(i).column("batch_seq")[0].as_py() for i in range(2)] == [2, 3]


@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_number_of_workers_changes_no_byte(world: World, more_worlds: MoreWorlds, num_workers: int) -> None:
    one, several = FakeService(spec_of()), FakeService(spec_of())
    attempt(world, one)
    other = more_worlds("other")
    attempt(other, several, num_workers=num_workers)
    assert published(other, several) == published(world, one)
    assert several.pool == one.pool
    assert {k: e.sha256 for k, e in several.cache.items()} == {k: e.sha256 for k, e in one.cache.items()}


@pytest.mark.parametrize(
    ("moment", "L"), [("schedule", 1), ("schedule", 2), ("commit", 1), ("committed", 2), ("cache", 1)]
)
def test_a_kill_at_any_call_and_a_new_attempt_give_the_same_bytes(
    world: World, more_worlds: MoreWorlds, moment: str, L: int
) -> None:
    spec = spec_of(num_batches=4, lists={"batches_per_list": L})
    undisturbed = FakeService(spec)
    attempt(world, undisturbed)
    other, killed = more_worlds("other"), FakeService(spec)
    kills = 0
    for token in range(1, 30):
        calls: list[str] = []

        def kill_later(name: str, body: object, calls: list[str] = calls, allowed: int = token - 1) -> None:
            calls.append(name)
            if calls.count(moment) > allowed:  # each attempt comes one call further than the one before
                raise Killed

        killed.on_call = kill_later
        try:
            attempt(other, killed, token=token)
            break
        except Killed:
            kills += 1
    assert kills >= 1
    assert published(other, killed) == published(world, undisturbed)


def pushing(world: World, files: dict[int, str]) -> Callable[[FakeService], int]:
    """A trainer that is always done with what is published, and pushes a checkpoint at the seqs named."""
    names = dict(files)

    def trainer(service: FakeService) -> int:
        for seq in [seq for seq in names if seq <= service.next_seq]:
            name = names.pop(seq)
            service.push(name, world.file("weights", f"{name}/model.safetensors"), trained_seq=seq)
        return service.next_seq

    return trainer


PUSHED = {"learner": {"model": "model_0123456789abcdef", "updates": "pushed"}}


def test_generations_follow_the_pushed_checkpoints_and_a_replay_gives_the_same_bytes(
    world: World, more_worlds: MoreWorlds
) -> None:
    world.checkpoint("c1", seed=5)
    world.checkpoint("c2", seed=6)
    spec = spec_of(**PUSHED, refresh={"max_staleness": 2}, num_batches=8)
    service = FakeService(spec, trainer=pushing(world, {1: "c1", 3: "c2", 4: "c1", 6: "c2"}))
    assert attempt(world, service) == "published"
    rules = [commit.rule for commit in service.commits]
    assert rules[0] == "easy_reference"
    assert rules[-1] == "checkpoint"
    generations = [commit.generation for commit in service.commits]
    assert generations == sorted(generations)
    assert len(set(generations)) >= 3
    assert all(row.seq < row.checkpoint.trained_seq + 2 for row in service.rows.values() if row.checkpoint)

    other = more_worlds("replay")
    again = FakeService(
        spec_of(**PUSHED, refresh={"max_staleness": 2, "replay": "job_fedcba9876543210"}, num_batches=8),
        replay=service.published_rows(),
        scheduled_checkpoints=service.checkpoints,
    )
    other.checkpoint("c1", seed=5)
    other.checkpoint("c2", seed=6)
    assert attempt(other, again) == "published"
    assert published(other, again) == published(world, service)


def test_a_replay_beyond_what_was_published_says_so(world: World) -> None:
    service = FakeService(spec_of(refresh={"replay": "job_fedcba9876543210"}))
    with pytest.raises(ReplayMismatch, match="seq 0"):
        attempt(world, service)


def test_without_progress_of_the_trainer_the_job_is_released(world: World) -> None:
    service = FakeService(spec_of(**PUSHED, refresh={"max_staleness": 2}))
    assert attempt(world, service) == "released"
    assert service.next_seq == 2
    assert service.released is not None
    assert (service.released.waits_for, service.released.seen_trained_seq) == ("trainer", 0)


def test_without_a_new_checkpoint_the_job_is_released(world: World) -> None:
    world.checkpoint("c1", seed=5)
    service = FakeService(spec_of(**PUSHED, refresh={"max_staleness": 2}), trainer=pushing(world, {1: "c1"}))
    assert attempt(world, service) == "released"
    assert service.released is not None
    assert (service.released.waits_for, service.released.seen_checkpoint) == ("checkpoint", "c1")


def test_a_checkpoint_that_is_not_finite_is_rejected_and_never_scores(world: World) -> None:
    world.checkpoint("bad", seed=5, poison="all")
    spec = spec_of(**PUSHED, refresh={"max_staleness": 100}, num_batches=4)
    service = FakeService(spec, trainer=pushing(world, {1: "bad"}))
    attempt(world, service)
    assert [c.state for c in service.checkpoints] == ["REJECTED"]
    assert {row.rule for row in service.rows.values()} == {"easy_reference"}


def test_a_checkpoint_replaced_after_its_push_is_rejected_and_never_loaded(world: World) -> None:
    pushed = world.checkpoint("c1", seed=5)
    world.checkpoint("c1", seed=6)
    spec = spec_of(**PUSHED, refresh={"max_staleness": 100}, num_batches=3)

    def push(service: FakeService) -> int:
        if not service.checkpoints:
            service.push("c1", pushed, trained_seq=0)
        return service.next_seq

    service = FakeService(spec, trainer=push)
    attempt(world, service)
    assert [c.state for c in service.checkpoints] == ["REJECTED"]
    assert {row.rule for row in service.published_rows()} == {"easy_reference"}


def test_candidates_that_are_not_finite_are_dropped_and_counted(world: World) -> None:
    world.checkpoint("row", seed=5, poison="row")
    spec = spec_of(**PUSHED, refresh={"max_staleness": 100}, num_batches=6, selection={"f": 0.9})
    service = FakeService(spec, trainer=pushing(world, {0: "row"}))
    attempt(world, service, num_fixed_rows=4)
    dropped = sum(count.dropped for commit in service.commits for count in commit.stats.per_source.values())
    assert dropped >= 4  # 80 of 111 rows per super-batch, six times
    commit = next(c for c in service.commits if sum(x.dropped for x in c.stats.per_source.values()))
    scores = read_score_shard(world.folder / "store" / commit.score_keys[0]).rows
    assert scores.column("score").null_count == scores.column("loss_learner").null_count == 1


def test_a_checkpoint_that_spoils_a_batch_is_rejected_and_the_batch_made_anew(world: World) -> None:
    world.checkpoint("bad", seed=5, poison="all")
    spec = spec_of(**PUSHED, refresh={"max_staleness": 100}, num_batches=4)
    service = FakeService(spec, trainer=pushing(world, {1: "bad"}))
    attempt(world, service, num_fixed_rows=0)  # nothing is tried before it is used
    assert [c.state for c in service.checkpoints] == ["REJECTED"]
    remade = [row for row in service.rows.values() if row.row_attempt == 1]
    assert remade
    assert {row.rule for row in service.published_rows()} == {"easy_reference"}
    assert any(event.kind == "row_remade" for event in service.events)
    assert [attempt_ for commit in service.commits for attempt_ in commit.row_attempts].count(1) == len(remade)


def test_a_fixed_learner_that_is_missing_fails_with_its_name(world: World) -> None:
    service = FakeService(spec_of())
    bundle = bundle_of(world, service)  # names the digest of a file that is gone when it is wanted
    (world.folder / "models" / "learner" / "model.safetensors").unlink()
    with pytest.raises(ScoringFailed, match=r"learner/model\.safetensors") as raised:
        attempt(world, service, bundle=bundle)
    assert raised.value.error_code == "object_missing"


class Narrow(InProcessExecutor):
    """Has memory for two rows at once."""

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        if micro_batch > 2:
            raise ScoringFailed("memory", "scoring_failed", f"no memory for {micro_batch} rows")
        return super().embed_rows(files, rows, micro_batch=micro_batch)


def test_a_lack_of_memory_halves_the_recorded_micro_batch(world: World) -> None:
    service = FakeService(spec_of(num_batches=2))
    attempt(world, service, make_executor=Narrow)
    assert [(row.row_attempt, row.micro_batch) for row in service.published_rows()] == [(1, 2), (1, 2)]


def test_a_super_batch_above_the_distinct_contents_fails_with_both_numbers(world: World) -> None:
    service = FakeService(spec_of(selection={"b": 107}, num_batches=2))
    with pytest.raises(SuperBatchExceedsPool, match=r"B = 268, distinct = 106"):
        attempt(world, service)


def test_a_job_without_models_needs_no_embeddings(world: World) -> None:
    spec = spec_of(reference=None, learner=None, selection={"method": "uniform"})
    service = FakeService(spec)
    assert attempt(world, service) == "published"
    assert {entry.kind for entry in service.cache.values()} == {"index"}
    batch = BatchListReader(world.folder / "store" / service.commits[0].list_key).read(0)
    for name in ("score", "chunk", "loss_learner", "loss_reference"):
        assert batch.column(name).null_count == batch.num_rows
    assert service.commits[0].stats.learnability_batch == []


def test_a_second_job_computes_nothing_that_the_first_has_cached(world: World) -> None:
    first = FakeService(spec_of())
    attempt(world, first)
    calls: list[str] = []
    second = FakeService(spec_of(seed=12), cache=first.cache, on_call=lambda name, body: calls.append(name))
    attempt(world, second, token=2)
    assert "cache" not in calls
    assert published(world, second) != published(world, first)


def test_another_numerics_profile_is_refused(world: World) -> None:
    service = FakeService(spec_of(num_batches=1))
    attempt(world, service)
    assert service.numerics is not None
    profile = service.numerics.profile | {"torch_version": "1.0"}
    service.numerics = service.numerics.model_copy(update={"profile": profile})
    with pytest.raises(NumericsChanged, match=r"1\.0"):
        attempt(world, service)


def test_a_shrinking_f_gives_each_batch_its_own_size(world: World) -> None:
    f = {"points": [[0, 0.8], [3, 0.0]], "between": "linear"}
    service = FakeService(spec_of(selection={"f": f}, num_batches=4))
    attempt(world, service)
    assert [commit.B[0] for commit in service.commits] == [40, 17, 11, 8]


def test_rows_are_candidates_once_per_pass(world: World) -> None:
    service = FakeService(spec_of(selection={"b": 8, "f": 0.5}, num_batches=12))
    attempt(world, service)
    seen: list[int] = []
    for commit in service.commits:
        seen += read_score_shard(world.folder / "store" / commit.score_keys[0]).rows.column("dataset_index").to_pylist()
    counts = np.bincount(seen, minlength=NUM_SHARDS * ROWS_PER_SHARD)
    assert (counts > 0).sum() == 111
    assert counts.max() <= 2
