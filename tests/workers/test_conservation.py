"""Promise 3: nothing gets lost. Every row in is selected, not selected, filtered, quarantined or dropped, per pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

from superbatch.formats.score_shard import NOT_CHOSEN, read_score_shard

from .fakes import FakeService, attempt, spec_of
from .test_pipeline import PUSHED, pushing
from .world import NUM_SHARDS, ROWS_PER_SHARD, World

NUM_PASSES = 3


def test_every_row_of_every_completed_pass_and_source_is_accounted_for(world: World) -> None:
    """Read from what is published alone: score shards, stats of the segments and the report of the pool.

    The world has a second copy of a picture in each shard (put off, so drawn a super-batch later), four quarantined
    rows, and one row that the learner cannot embed (dropped in every pass).
    """
    world.checkpoint("row", seed=5, poison="row")
    spec = spec_of(
        **PUSHED, refresh={"max_staleness": 100}, num_batches=20, selection={"f": 0.6}, lists={"batches_per_list": 4}
    )
    service = FakeService(spec, trainer=pushing(world, {0: "row"}))
    attempt(world, service, num_fixed_rows=4)
    assert service.commits[-1].next_walk.pass_index >= NUM_PASSES, "the passes looked at are complete"
    assert service.pool is not None
    source_of = [shard.source for shard in world.shards() for _ in range(ROWS_PER_SHARD)]

    times_drawn: Counter[int] = Counter()
    fates: Counter[tuple[int, str, str]] = Counter()  # pass, source, what became of a row in it
    for row in score_rows(world, service):
        index = row["dataset_index"]
        is_dropped = row["loss_learner"] is None
        is_chosen = row["round"] != NOT_CHOSEN
        assert not (is_dropped and is_chosen)
        fate = "dropped" if is_dropped else "selected" if is_chosen else "not selected"
        fates[times_drawn[index], source_of[index], fate] += 1
        times_drawn[index] += 1

    waiting = Counter(service.commits[-1].next_walk.put_off)
    for pass_index in range(NUM_PASSES):
        still_put_off = [i for i, count in waiting.items() if times_drawn[i] <= pass_index < times_drawn[i] + count]
        for source, pool in service.pool.per_source.items():
            drawn = sum(fates[pass_index, source, fate] for fate in ("selected", "not selected", "dropped"))
            put_off = sum(source_of[index] == source for index in still_put_off)
            assert pool["rows"] == source_of.count(source)
            assert pool["rows"] == drawn + put_off + pool["filtered"] + pool["quarantined"], (pass_index, source)
        assert sum(fates[pass_index, source, "dropped"] for source in service.pool.per_source) == 1
        assert sum(fates[pass_index, source, "selected"] for source in service.pool.per_source) > 0
    assert sum(pool["rows"] for pool in service.pool.per_source.values()) == NUM_SHARDS * ROWS_PER_SHARD

    for source in service.pool.per_source:
        stats = [commit.stats.per_source[source] for commit in service.commits if source in commit.stats.per_source]
        for fate, counted in (
            ("selected", sum(count.selected for count in stats)),
            ("dropped", sum(count.dropped for count in stats)),
            ("not selected", sum(count.candidates - count.selected - count.dropped for count in stats)),
        ):
            assert counted == sum(n for (_, where, what), n in fates.items() if (where, what) == (source, fate))


def score_rows(world: World, service: FakeService) -> list[dict[str, Any]]:
    keys = [key for commit in service.commits for key in commit.score_keys]
    return [row for key in keys for row in read_score_shard(world.folder / "store" / key).rows.to_pylist()]
