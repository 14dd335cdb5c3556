"""Every rule of `refresh`, kept from a job's first batch to its last: what scores, what waits, what is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.segments import ScoredWith
from superbatch_server.schemas.attempts import ScheduleRow
from superbatch_server.service.catalog.segments import segment_of
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.model_files import EncoderFiles
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings

from .fakes import FakeService, attempt, spec_of
from .test_pipeline import PUSHED, pushing
from .world import World


def losses(world: World, service: FakeService, seq: int) -> tuple[bool, bool, bool]:
    """Return whether learner loss, reference loss and score stand in the list of a batch."""
    rows = BatchListReader(world.folder / "store" / service.commits[seq].list_key).read(0)
    names = ("loss_learner", "loss_reference", "score")
    return tuple(rows.column(name).null_count == 0 for name in names)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("before_first", "found"),
    [
        ("easy_reference", (False, True, True)),
        ("uniform", (False, False, False)),
        ("initial_weights", (True, True, True)),
    ],
)
def test_before_the_first_checkpoint_its_rule_scores_and_is_named_and_the_checkpoint_follows(
    world: World, before_first: str, found: tuple[bool, bool, bool]
) -> None:
    world.checkpoint("c1", seed=5)
    spec = spec_of(**PUSHED, refresh={"max_staleness": 50, "before_first": before_first}, num_batches=6)
    service = FakeService(spec, trainer=pushing(world, {3: "c1"}))
    assert attempt(world, service) == "published"
    first = [commit for commit in service.commits if commit.rule == before_first]
    assert 3 <= len(first) <= 5
    assert [(c.generation, c.checkpoint) for c in first] == [(0, None)] * len(first)
    assert losses(world, service, 0) == found
    assert losses(world, service, 5) == (True, True, True)
    named = [segment_of({"commit": c.model_dump_json(), "log_digest_end": "0" * 64}) for c in service.commits]  # type: ignore[arg-type]
    assert [segment.rule for segment in named[: len(first)]] == [before_first] * len(first)
    last = named[-1]
    assert (last.rule, last.generation) == (None, 1)
    assert last.scored_with == ScoredWith("c1", 3, service.checkpoints[0].sha256)
    assert last.staleness(5) == 2


@pytest.mark.parametrize(
    ("on_stale", "after_limit"),
    [("wait", []), ("use", ["checkpoint"] * 4), ("uniform", ["uniform"] * 4)],
)
def test_when_the_scores_are_too_old_the_rule_on_stale_decides(
    world: World, on_stale: str, after_limit: list[str]
) -> None:
    """The checkpoint of one batch may score seq 1 to 3; credit goes on, a newer one does not come."""
    world.checkpoint("c1", seed=5)
    spec = spec_of(
        **PUSHED, refresh={"max_staleness": 3, "on_stale": on_stale, "before_first": "uniform"}, num_batches=8
    )
    service = FakeService(spec, trainer=pushing(world, {1: "c1"}))
    ended = attempt(world, service)
    assert [commit.rule for commit in service.commits][4:] == after_limit
    scored = [row for row in service.published_rows() if row.checkpoint]
    staleness = [row.seq - row.checkpoint.trained_seq for row in scored if row.checkpoint]
    assert max(staleness) == (6 if on_stale == "use" else 2)
    if on_stale == "wait":
        assert service.released is not None
        assert (ended, service.released.waits_for, service.next_seq) == ("released", "checkpoint", 4)
    else:
        assert ended == "published"


def test_a_trainer_whose_ttl_has_passed_pauses_production_whatever_its_credit(world: World) -> None:
    service = FakeService(spec_of(**PUSHED, refresh={"max_staleness": 50}), trainer=lambda s: s.next_seq)

    def silent_after_two(name: str, body: object) -> None:
        service.is_live = service.next_seq < 2

    service.on_call = silent_after_two
    assert attempt(world, service) == "released"
    assert service.next_seq in (2, 3), "at most the batch that was being scored came after"
    assert service.released is not None
    assert (service.released.waits_for, service.released.seen_live) == ("trainer", False)
    service.is_live, service.on_call = True, lambda name, body: None
    assert attempt(world, service, token=2) == "published"


def test_a_checkpoint_that_comes_while_a_super_batch_is_scored_scores_the_next_one_only(world: World) -> None:
    """The swap is between super-batches: all candidates of one are embedded under the weights that its row names."""
    first, second = world.checkpoint("c1", seed=5), world.checkpoint("c2", seed=6)
    spec = spec_of(**PUSHED, refresh={"max_staleness": 50}, num_batches=6)
    service = FakeService(spec, trainer=lambda s: s.next_seq)
    service.push("c1", first, trained_seq=0)
    scored_with: list[set[str]] = []

    class Noting(InProcessExecutor):
        def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
            if len(rows) == B:  # else the fixed rows of a verdict
                scored_with.append({file.key for file in files.files if file.role == "weights"})
                if len(scored_with) == 3:
                    service.push("c2", second, trained_seq=1)
            return super().embed_rows(files, rows, micro_batch=micro_batch)

    B = 20
    attempt(world, service, make_executor=Noting, num_fixed_rows=8)
    rows: list[ScheduleRow] = service.published_rows()
    used = [row.checkpoint.id for row in rows if row.checkpoint]
    assert used == ["c1"] * 3 + ["c2"] * 3
    assert scored_with == [{f"{name}/model.safetensors"} for name in used]
    assert [commit.generation for commit in service.commits] == [1, 1, 1, 2, 2, 2]
