"""What the stages of the index pass took is measured where it is spent, and told with the counters."""

from __future__ import annotations

from pathlib import Path

from superbatch_server.storage.store import LocalStore
from superbatch_server.workers.attempt import find_needs, settle_numerics
from superbatch_server.workers.executors import InProcessExecutor
from superbatch_server.workers.index_pass import IndexPass
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.progress import Progress

from .fakes import FakeService, bundle_of, spec_of
from .test_shards import EASY, task_of, worker_of
from .world import ROWS_PER_SHARD, World


def test_the_stages_of_a_shard_add_up_to_at_most_its_time(world: World) -> None:
    receipt = worker_of(world).run(task_of(world, 0))
    stages = (receipt.decode_s, receipt.encode_s, receipt.write_s)
    assert all(stage > 0 for stage in stages)
    assert sum(stages) <= receipt.seconds


def test_a_shard_that_is_only_indexed_spends_nothing_in_the_model(world: World) -> None:
    receipt = worker_of(world).run(task_of(world, 0, has_embedding=True))
    assert receipt.encode_s == 0
    assert receipt.decode_s > 0


def test_the_counters_sum_the_stages_of_what_was_read(world: World) -> None:
    service, progress = FakeService(spec_of(**EASY)), Progress()
    bundle = bundle_of(world, service)
    needs = find_needs(bundle, service, settle_numerics(bundle, service), folder=world.folder / "scratch" / "1")
    executor = InProcessExecutor(needs.settings, embed=needs.embed, spec=needs.spec, num_workers=1)
    store = LocalStore(bundle.runtime.store_url, folder=Path(bundle.runtime.store_url))
    pool = Pool(bundle.shards, store)
    index_pass = IndexPass(needs.plan, executor, service, pool=pool, progress=progress, largest_B=1)
    index_pass.run()
    pool.check()
    counters = progress.heartbeat().counters
    assert counters["rows_read"] == ROWS_PER_SHARD * len(needs.plan.tasks) > 0
    assert all(counters[f"pass_{stage}_s"] > 0 for stage in ("read", "decode", "encode", "write"))
    executor.close()
